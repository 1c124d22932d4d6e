"""A CXL pool that several hosts share without coherent caches: views, ownership, its checker."""

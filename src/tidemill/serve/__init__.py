"""The LLM server's core: requests, one scheduler for the real loop and the simulator, executors."""

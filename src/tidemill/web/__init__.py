"""The digest's site: papers, claims, a Run button; server-rendered, and whole without JavaScript.

    app = create_app(store, library, queue)
    serve(app, "127.0.0.1", 8321, ready=print)

It knows papers (`tidemill.feed`), claims, runs and results (`tidemill.bench`), and nothing that is
inside a system.
"""

from tidemill.web.access import access_token
from tidemill.web.app import create_app
from tidemill.web.guard import check_bind
from tidemill.web.serving import serve

__all__ = ["access_token", "check_bind", "create_app", "serve"]

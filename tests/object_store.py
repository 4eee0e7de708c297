"""A real S3 server on this machine, which can be told to fail."""

import contextlib
import random
import re
import threading
from collections.abc import Callable, Iterator

from werkzeug.serving import make_server

DENIED = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>"
    b"<Message>Access Denied</Message></Error>"
)


class ObjectStore:
    """The server, with the bucket ``bucket``.

    Attributes:
      url: Where it listens.
      fails: The share of requests that it fails, from 0 to 1.
      denied: What it denies: a regular expression of methods and paths.
      requests: The methods and paths of all requests so far.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._application = DomainDispatcherApplication(create_backend_app)
        self._random = random.Random(0)
        self.fails, self.denied, self.requests = 0.0, "", []
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _answer(self, environ, start_response):
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.requests.append(request)
        if self.denied and re.search(self.denied, request):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [DENIED]
        if self._random.random() < self.fails:
            start_response("503 Service Unavailable", [])
            return [b""]
        return self._application(environ, start_response)


@contextlib.contextmanager
def object_store(setenv: Callable[[str, str], None]) -> Iterator[ObjectStore]:
    """Runs the server, and tells where it is by environment variables."""
    store = ObjectStore()
    setenv("AWS_ACCESS_KEY_ID", "key")
    setenv("AWS_EC2_METADATA_DISABLED", "true")
    setenv("AWS_ENDPOINT_URL", store.url)
    setenv("AWS_REGION", "us-east-1")
    setenv("AWS_SECRET_ACCESS_KEY", "secret")
    thread = threading.Thread(target=store.server.serve_forever, daemon=True)
    thread.start()
    try:
        from pyarrow import fs

        where = {"endpoint_override": store.url, "region": "us-east-1"}
        fs.S3FileSystem(allow_bucket_creation=True, **where).create_dir("bucket")
        yield store
    finally:
        store.server.shutdown()
        thread.join()

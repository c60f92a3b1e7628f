"""An S3 server for tests: moto's over HTTP, in this process, which other processes reach and which can be told to fail.

    pytest_plugins = ("s3_server",)  # in a test module, for the fixtures

`s3` points the environment to the server and gives a client; all buckets that a test made are removed after it.
"""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import moto.settings
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

Request = tuple[str, str]
"""Method and path, such as ("GET", "/bucket/key")."""


class S3Server:
    """A running server, the requests that it has seen, and what a test wants to go wrong."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._moto = self._server._server.app
        self._server._server.app = self._answer
        self.endpoint = "http://{}:{}".format(*self._server.get_host_and_port())
        self.behave()

    def behave(self) -> None:
        """Forget all requests and all trouble."""
        self.requests: list[Request] = []
        self.signed: dict[Request, str] = {}
        """The SHA-256 (hexadecimal) by which the body of the last such request was signed."""
        self.fails: Callable[[Request], bool] = lambda request: False
        """Whether a request is answered by `503 Slow Down`."""
        self.tampers: Callable[[Request, bytes], bytes] = lambda request, body: body
        """The bytes to answer a GET with, as many as the true ones."""

    def environment(self) -> dict[str, str]:
        """The variables by which any process finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A plain boto3 client, apart from the project's; it sends no checksum unless it is told to."""
        variables = self.environment()
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            region_name=variables["AWS_REGION"],
            config=Config(request_checksum_calculation="when_required"),
        )

    @contextmanager
    def holding(self, policy: str) -> Iterator[dict[str, str]]:
        """The environment of a user with this policy (JSON) and no other; everybody is held to theirs meanwhile."""
        told = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        iam = boto3.client("iam", aws_access_key_id="test", aws_secret_access_key="test-secret", **told)
        name = f"user-{uuid.uuid4()}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
            secrets = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
            yield self.environment() | secrets

    def stop(self) -> None:
        self._server.stop()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"])
        self.requests.append(request)
        self.signed[request] = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        if self.fails(request):
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        body = self._moto(environ, start_response)
        return [self.tampers(request, b"".join(body))] if request[0] == "GET" else body


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty server, to which the environment points."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    client = s3_server.client()
    yield client
    s3_server.behave()
    for bucket in client.list_buckets()["Buckets"]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for item in page.get("Contents", []):
                client.delete_object(Bucket=bucket["Name"], Key=item["Key"])
        client.delete_bucket(Bucket=bucket["Name"])

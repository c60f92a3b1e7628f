"""Make what the servers lack: a role and a database for each address, and the buckets. Once more, it changes nothing.

Environment:
    POSTGRES_HOST, POSTGRES_PORT (5432), POSTGRES_USER (postgres), POSTGRES_PASSWORD: the server and its superuser.
    MLFLOW_BACKEND_STORE_URI, CYTOLOOP_STUDY_STORAGE: addresses whose role, password and database are to work,
        postgresql+psycopg://role:password@host/database.
    CYTOLOOP_BUCKETS: names of buckets, with spaces between them.
    AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION: the object store.
"""

import os
import sys
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import boto3
import psycopg
from botocore import exceptions
from psycopg import sql

COMING_UP = (psycopg.OperationalError, exceptions.ClientError, exceptions.ConnectionError, exceptions.HTTPClientError)
ADDRESSES = ("MLFLOW_BACKEND_STORE_URI", "CYTOLOOP_STUDY_STORAGE")
PATIENCE = 180
"""Seconds for which the servers may take to come up."""


def make_databases() -> None:
    """A role with the address's password, and a database of its own that no other role may open."""
    with psycopg.connect(
        host=os.environ["POSTGRES_HOST"],
        port=os.environ.get("POSTGRES_PORT", "5432"),
        user=os.environ.get("POSTGRES_USER", "postgres"),
        password=os.environ["POSTGRES_PASSWORD"],
        dbname="postgres",
        connect_timeout=5,
        autocommit=True,
    ) as connection:
        for name in ADDRESSES:
            make_database(connection, name, os.environ[name])


def make_database(connection: psycopg.Connection, name: str, address: str) -> None:
    """Make the role and the database of one address; a role that exists gets the address's password."""
    parts = urlsplit(address)
    if not (parts.username and parts.password and parts.path.strip("/")):
        sys.exit(f"{name}: allowed is postgresql+psycopg://role:password@host:port/database")
    role, database = sql.Identifier(unquote(parts.username)), sql.Identifier(parts.path.strip("/"))
    verb = "ALTER" if exists(connection, "pg_roles", "rolname", unquote(parts.username)) else "CREATE"
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(sql.SQL(verb), role, sql.Literal(unquote(parts.password)))
    )
    if not exists(connection, "pg_database", "datname", parts.path.strip("/")):
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def exists(connection: psycopg.Connection, table: str, column: str, name: str) -> bool:
    """Whether a catalogue has a row of this name."""
    query = sql.SQL("SELECT 1 FROM {} WHERE {} = %s").format(sql.Identifier(table), sql.Identifier(column))
    return connection.execute(query, [name]).fetchone() is not None


def make_buckets() -> None:
    """The buckets that are not there yet."""
    client = boto3.client("s3")
    present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in os.environ["CYTOLOOP_BUCKETS"].split():
        if name not in present:
            client.create_bucket(Bucket=name)


def when_up(work: Callable[[], None]) -> None:
    """Do the work as soon as its server answers; for PATIENCE seconds, then its error ends the program."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except COMING_UP as error:
            if time.monotonic() > deadline:
                sys.exit(f"{work.__name__}: {error}")
            print(f"{work.__name__}: waiting; {error}", file=sys.stderr)
            time.sleep(3)


if __name__ == "__main__":
    when_up(make_databases)
    when_up(make_buckets)

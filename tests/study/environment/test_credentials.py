"""Credentials do not survive in texts, and nothing else is lost."""

import random

import pytest

from lsx.study.environment.credentials import redacted

USER_INFO = [
    ("http://user:pw@host", "http://***@host"),
    ("http://user:pw@host:5000/path?x=1#y", "http://***@host:5000/path?x=1#y"),
    ("https://token@host/", "https://***@host/"),
    ("HTTP://U:P@H", "HTTP://***@H"),
    ("postgresql://user:pw@host:5432/db", "postgresql://***@host:5432/db"),
    ("mysql+pymysql://user:pw@host/db", "mysql+pymysql://***@host/db"),
    ("s3://key:secret@bucket/folder", "s3://***@bucket/folder"),
    ("s3://key:se/cr+et=@bucket/folder", "s3://***@bucket/folder"),
    ("s3://key:12/34@bucket", "s3://***@bucket"),
    ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
    ("mongodb://u:p@one:1,two:2/db", "mongodb://***@one:1,two:2/db"),
    ("jdbc:postgresql://u:p@host/db", "jdbc:postgresql://***@host/db"),
    ("sqlite+pysqlcipher://:pw@/abs/path.db", "sqlite+pysqlcipher://***@/abs/path.db"),
    ("http://u:p@[::1]:5000/", "http://***@[::1]:5000/"),
    ("http://u:p%40w%2F@host", "http://***@host"),
    ("http://u:p@w@host/x", "http://***@host/x"),
    ("http://u:p@w/o@host/x", "http://***@host/x"),
    ("http://u:p?w#o@host/x", "http://***@host/x"),
    ("http://u:p'w\"o@host/x", "http://***@host/x"),
    ("http://u:päß@höst/x", "http://***@höst/x"),
    ("1http://u:p@host", "1http://***@host"),
    ("no answer from 'http://u:p@host'; mail 'a@b.org'", "no answer from 'http://***@host'; mail 'a@b.org'"),
    ('{"uri":"http://u:p\'w@host","mail":"a@b.org"}', '{"uri":"http://***@host","mail":"a@b.org"}'),
    ("['http://u:p@one','http://v:q@two']", "['http://***@one','http://***@two']"),
    ("first http://u:p@one then\npostgresql://v:q@two", "first http://***@one then\npostgresql://***@two"),
    ("http://host/?next=http://u:p@two/", "http://host/?next=http://***@two/"),
]


@pytest.mark.parametrize(("text", "hidden"), USER_INFO)
def test_user_info_is_hidden(text, hidden):
    assert redacted(text) == hidden


@pytest.mark.parametrize(
    "name",
    [
        *("password", "passwd", "pwd", "pass", "token", "secret", "key", "sig", "signature", "auth", "PASSWORD"),
        *("access_key", "secret_key", "api_key", "apikey", "api-key", "AWSAccessKeyId", "client_secret", "sslpassword"),
        *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "access_token", "odbc_connect"),
    ],
)
def test_secret_parameters_are_hidden(name):
    assert redacted(f"http://h/p?{name}=v") == f"http://h/p?{name}=***"
    assert redacted(f"x http://h?a=1&{name}=v/@w;?&b=2 y") == f"x http://h?a=1&{name}=***&b=2 y"
    assert redacted(f"http://h#{name}=v") == f"http://h#{name}=***"
    assert redacted(f"http://h?a=1;{name}=v") == f"http://h?a=1;{name}=***"
    assert redacted(f"'http://h?{name}=v', then") == f"'http://h?{name}=***', then"


def test_user_info_and_parameters_are_hidden_together():
    assert (
        redacted("postgresql://u:p@h/db?sslmode=require&password=x&sslkey=y")
        == "postgresql://***@h/db?sslmode=require&password=***&sslkey=***"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no URI at all: a/b, c=d, 10:30, x@y",
        "password=abc&token=def",
        "mail someone@example.org or <other+tag@example.org>",
        "git@example.org:group/project.git",
        r"C:\Users\someone@work\data; D:/data/x@y",
        "file:///C:/Users/someone@work/data",
        "sqlite:////abs/path",
        "sqlite:////abs/p@th:x/y@z.db",
        "sqlite:///relative.db?timeout=20",
        "http://localhost:5000",
        "http://localhost:5000/#/experiments/1/runs/abc and a@b.org",
        "http://[::1]:5000/x",
        "https://example.org/@someone/page",
        "git+https://example.org/a/b.git@main",
        "s3://bucket/folder/key=3/part",
        "http://h?sigma=1&design=2&author=me&keyspace=k&tokens&token=&passes=3",
        "a :// b @ c",
        "http://",
    ],
)
def test_what_is_no_credential_stays(text):
    assert redacted(text) == text


def test_a_redacted_text_stays_as_it_is():
    draw = random.Random(0)
    pieces = ["http://", "s3://", "u:p", "@", "/", "?", "&", "#", ";", ":", "token=", "a=", "'", '"', " ", "x", "***"]
    for _ in range(5000):
        text = "".join(draw.choices(pieces, k=12))
        assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize("text", ["a" * 50_000, "http://" + ":" * 50_000, "http://h?" + "key" * 10_000, "://" * 2000])
def test_a_long_text_takes_no_time(text):
    assert redacted(text) == text  # the suite's timeout is what fails

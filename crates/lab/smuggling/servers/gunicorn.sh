#!/bin/sh
# gunicorn.sh ADDRESS PORT FOLDER: answers every request with its method and target, and logs them.
set -eu
cat >"$3/seen.py" <<'CODE'
import os

log = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def app(environ, start_response):
    said = environ["REQUEST_METHOD"] + " " + environ["RAW_URI"]
    said = said.encode("latin-1", "replace")
    os.write(log, b"200 " + said + b"\n")
    while environ["wsgi.input"].read(65536):
        pass
    length = str(len(said))
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", length)])
    return [said]
CODE
SEEN=$3/seen exec gunicorn --bind "$1:$2" --worker-class gthread --threads 4 --keep-alive 60 \
    --limit-request-line 8190 --limit-request-field_size 65536 --chdir "$3" --log-file "$3/errors" seen:app

#!/bin/sh
# haproxy.sh ADDRESS PORT FOLDER http1|http2: answers every request with its method and target, and logs them.
set -eu
# What it calls the URI is in HTTP/2 the whole of it.
case $4 in
http2) speaks=" proto h2" target=%HPO ;;
*) speaks= target=%HU ;;
esac
cat >"$3/haproxy.conf" <<CONF
global
    log stdout format raw local0
    # Of several threads, those that find the log taken write nothing.
    nbthread 1
    tune.bufsize 131072
defaults
    mode http
    timeout client 60s
    timeout connect 5s
    timeout server 60s
    timeout http-keep-alive 60s
    option http-buffer-request
    # Who looks whether the port is open says nothing.
    option dontlognull
    option http-ignore-probes
frontend seen
    bind $1:$2$speaks
    log global
    log-format "%ST %HM $target"
    http-request return status 200 content-type text/plain lf-string "%HM $target"
CONF
PATH=$PATH:/usr/sbin
exec haproxy -f "$3/haproxy.conf" >>"$3/seen" 2>"$3/errors"

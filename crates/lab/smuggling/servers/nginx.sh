#!/bin/sh
# nginx.sh ADDRESS PORT FOLDER http1|http2: answers every request with its method and target, and logs them.
set -eu
case $4 in http2) speaks=" http2" ;; *) speaks= ;; esac
cat >"$3/nginx.conf" <<CONF
daemon off;
pid $3/nginx.pid;
error_log $3/errors;
events { worker_connections 1024; }
http {
    log_format seen escape=none '\$status \$request_method \$request_uri';
    access_log $3/seen seen;
    client_body_temp_path $3/body;
    proxy_temp_path $3/proxy;
    fastcgi_temp_path $3/fastcgi;
    uwsgi_temp_path $3/uwsgi;
    scgi_temp_path $3/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000;
    keepalive_timeout 60s;
    large_client_header_buffers 8 64k;
    server {
        listen $1:$2$speaks;
        location / { return 200 "\$request_method \$request_uri"; }
    }
}
CONF
PATH=$PATH:/usr/sbin
exec nginx -p "$3" -e "$3/errors" -c "$3/nginx.conf"

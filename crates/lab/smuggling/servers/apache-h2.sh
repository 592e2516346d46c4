#!/bin/sh
# apache-h2.sh ADDRESS PORT FOLDER: finds nothing, whatever is asked for, and logs it. Speaks HTTP/2.
set -eu
mkdir -p "$3/empty"
cat >"$3/apache.conf" <<CONF
ServerRoot $3
ServerName lab
PidFile $3/apache.pid
Listen $1:$2
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User www-data
Group www-data
DocumentRoot $3/empty
<Directory />
    AllowOverride None
</Directory>
ErrorLog $3/errors
LogFormat "%>s %r" seen
CustomLog $3/seen seen
KeepAlive On
Protocols h2c
H2Direct on
KeepAliveTimeout 60
MaxKeepAliveRequests 0
LimitRequestFieldSize 65536
LimitRequestLine 65536
CONF
PATH=$PATH:/usr/sbin
exec apache2 -f "$3/apache.conf" -DFOREGROUND

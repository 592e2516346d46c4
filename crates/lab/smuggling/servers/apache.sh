#!/bin/sh
# apache.sh ADDRESS PORT FOLDER http1|http2: finds nothing, whatever is asked for, and logs it.
set -eu
case $4 in
http2) speaks="LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
Protocols h2c
H2Direct on" ;;
*) speaks= ;;
esac
mkdir -p "$3/empty"
cat >"$3/apache.conf" <<CONF
ServerRoot $3
ServerName lab
PidFile $3/apache.pid
Listen $1:$2
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
$speaks
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
KeepAliveTimeout 60
MaxKeepAliveRequests 0
LimitRequestFieldSize 65536
LimitRequestLine 65536
CONF
PATH=$PATH:/usr/sbin
exec apache2 -f "$3/apache.conf" -DFOREGROUND

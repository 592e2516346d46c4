#!/bin/sh
# go.sh ADDRESS PORT FOLDER http1|http2: answers every request with its method and target, and logs them.
set -eu
cat >"$3/seen.go" <<'CODE'
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	log, err := os.OpenFile(os.Args[2]+"/seen", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	server := http.Server{Addr: os.Args[1], DisableGeneralOptionsHandler: true}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said := r.Method + " " + r.RequestURI
		fmt.Fprintf(log, "200 %s\n", said)
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, said)
	})
	if os.Args[3] == "http2" {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetUnencryptedHTTP2(true)
	}
	panic(server.ListenAndServe())
}
CODE
PATH=$PATH:/usr/local/go/bin
cd "$3"
GOFLAGS=-mod=mod GO111MODULE=off go build -o seen-server seen.go
exec ./seen-server "$1:$2" "$3" "$4" 2>"$3/errors"

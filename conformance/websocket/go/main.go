// A WebSocket server and client with gorilla/websocket:
//
//	websocket ADDRESS:PORT server
//	websocket URL client CASE,...
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) >= 3 && os.Args[2] == "server" {
		fmt.Fprintln(os.Stderr, serve(os.Args[1]))
		os.Exit(1)
	}
	if len(os.Args) == 4 && os.Args[2] == "client" {
		runCases(os.Args[1], strings.Split(os.Args[3], ","))
		return
	}
	fmt.Fprintln(os.Stderr, "usage: websocket ADDRESS:PORT server | websocket URL client CASE,...")
	os.Exit(2)
}

package main

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
)

// How connections of /code/NAME were closed.
var codes sync.Map

// The same server as server_websockets.py.
func serve(address string) error {
	upgrader := websocket.Upgrader{
		Subprotocols:      []string{"second"},
		EnableCompression: true,
		CheckOrigin:       func(*http.Request) bool { return true },
	}
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		connection, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer connection.Close()
		talk(connection, r.URL.Path)
	}))
}

func talk(connection *websocket.Conn, path string) {
	if name, ok := strings.CutPrefix(path, "/codes/"); ok {
		code, found := codes.Load(name)
		if !found {
			code = "none"
		}
		connection.WriteMessage(websocket.TextMessage, []byte(code.(string)))
		closeWith(connection, websocket.CloseNormalClosure, "")
		return
	}
	for {
		kind, message, err := connection.ReadMessage()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			if name, ok := strings.CutPrefix(path, "/code/"); ok {
				codes.Store(name, strconv.Itoa(closed.Code))
			}
		}
		if err != nil {
			return
		}
		if asked, ok := strings.CutPrefix(path, "/close/"); ok {
			code, _ := strconv.Atoi(asked)
			closeWith(connection, code, "as asked")
			return
		}
		if connection.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// Says why, and waits until the peer has said the same.
func closeWith(connection *websocket.Conn, code int, reason string) {
	connection.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason))
	for {
		if _, _, err := connection.ReadMessage(); err != nil {
			return
		}
	}
}

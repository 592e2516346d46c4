package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// The proxy is that of http_proxy, asked by CONNECT.
var dialer = websocket.Dialer{Proxy: http.ProxyFromEnvironment, HandshakeTimeout: 20 * time.Second}

type check func(url string) error

func runCases(url string, asked []string) {
	cases := map[string]check{
		"echo_text": echoText, "echo_binary": echoBinary, "large_fragmented": largeFragmented,
		"ping_pong": pingPong, "close_by_client": closeByClient, "close_by_server": closeByServer,
		"subprotocol": subprotocol, "permessage_deflate": deflate, "two_hundred": twoHundred, "refused": refused,
	}
	for _, name := range asked {
		result := map[string]any{"case": name, "error": nil, "note": ""}
		if err := cases[name](url); err != nil {
			result["error"] = err.Error()
		}
		line, _ := json.Marshal(result)
		fmt.Fprintln(os.Stdout, string(line))
	}
}

func open(url string) (*websocket.Conn, error) {
	connection, _, err := dialer.Dial(url, nil)
	if err == nil {
		connection.SetReadDeadline(time.Now().Add(30 * time.Second))
	}
	return connection, err
}

func echo(connection *websocket.Conn, kind int, message []byte) error {
	if err := connection.WriteMessage(kind, message); err != nil {
		return err
	}
	return receive(connection, kind, message)
}

func receive(connection *websocket.Conn, kind int, message []byte) error {
	gotKind, got, err := connection.ReadMessage()
	if err == nil && (gotKind != kind || !bytes.Equal(got, message)) {
		err = fmt.Errorf("another message came back: kind %d, %d bytes", gotKind, len(got))
	}
	return err
}

func echoText(url string) error {
	connection, err := open(url + "/echo")
	if err != nil {
		return err
	}
	defer connection.Close()
	for _, text := range []string{"hello", "", "küche ☺ 😈"} {
		if err := echo(connection, websocket.TextMessage, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func echoBinary(url string) error {
	connection, err := open(url + "/echo")
	if err != nil {
		return err
	}
	defer connection.Close()
	return echo(connection, websocket.BinaryMessage, []byte{0, 1, 2, 255, 254})
}

// A message in many frames: each flush of the buffer is one.
func largeFragmented(url string) error {
	connection, err := open(url + "/echo")
	if err != nil {
		return err
	}
	defer connection.Close()
	message := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	writer, err := connection.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	for rest := message; len(rest) > 0; rest = rest[16384:] {
		if _, err := writer.Write(rest[:16384]); err != nil {
			return err
		}
	}
	if err := writer.Close(); err != nil {
		return err
	}
	return receive(connection, websocket.BinaryMessage, message)
}

func pingPong(url string) error {
	connection, err := open(url + "/echo")
	if err != nil {
		return err
	}
	defer connection.Close()
	var seen string
	connection.SetPongHandler(func(data string) error { seen = data; return nil })
	deadline := time.Now().Add(10 * time.Second)
	if err := connection.WriteControl(websocket.PingMessage, []byte("are you there"), deadline); err != nil {
		return err
	}
	if err := echo(connection, websocket.TextMessage, []byte("after")); err != nil {
		return err
	}
	if seen != "are you there" {
		return fmt.Errorf("the pong carries %q", seen)
	}
	return nil
}

func closeByClient(url string) error {
	name := fmt.Sprintf("go%d", time.Now().UnixNano())
	connection, err := open(url + "/code/" + name)
	if err != nil {
		return err
	}
	connection.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "enough"))
	_, _, err = connection.ReadMessage()
	connection.Close()
	// Some answer with the same code, some with 1000.
	if !websocket.IsCloseError(err, 4001, websocket.CloseNormalClosure) {
		return fmt.Errorf("the answer to the close is %w", err)
	}
	return until(func() error {
		asked, err := open(url + "/codes/" + name)
		if err != nil {
			return err
		}
		defer asked.Close()
		return receive(asked, websocket.TextMessage, []byte("4001"))
	})
}

// The server notes a close when it has ended, which may be after its answer.
func until(ask func() error) error {
	last := time.Now().Add(5 * time.Second)
	for {
		err := ask()
		if err == nil || time.Now().After(last) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func closeByServer(url string) error {
	connection, err := open(url + "/close/4321")
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.WriteMessage(websocket.TextMessage, []byte("go"))
	_, _, err = connection.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4321 || closed.Text != "as asked" {
		return fmt.Errorf("closed by %w", err)
	}
	return nil
}

func subprotocol(url string) error {
	chooser := dialer
	chooser.Subprotocols = []string{"first", "second"}
	connection, _, err := chooser.Dial(url+"/protocol", nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	if connection.Subprotocol() != "second" {
		return fmt.Errorf("%q was chosen", connection.Subprotocol())
	}
	return nil
}

func deflate(url string) error {
	packer := dialer
	packer.EnableCompression = true
	connection, response, err := packer.Dial(url+"/echo", nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	if !strings.Contains(response.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		return errors.New("permessage-deflate was not agreed on")
	}
	return echo(connection, websocket.TextMessage, bytes.Repeat([]byte("again and "), 10000))
}

func twoHundred(url string) error {
	connections := make([]*websocket.Conn, 200)
	ends := make(chan error, len(connections))
	for number := range connections {
		go func() {
			connection, err := open(url + "/echo")
			connections[number] = connection
			ends <- err
		}()
	}
	failed := drain(ends, len(connections))
	for number, connection := range connections {
		if connection == nil {
			continue
		}
		defer connection.Close()
		go func() {
			ends <- echo(connection, websocket.TextMessage, []byte(fmt.Sprint(number)))
		}()
	}
	if failed != nil {
		return failed
	}
	return drain(ends, len(connections))
}

func drain(ends chan error, count int) (failed error) {
	for range count {
		if err := <-ends; err != nil {
			failed = err
		}
	}
	return failed
}

func refused(url string) error {
	connection, response, err := dialer.Dial(url+"/refuse", nil)
	if err == nil {
		connection.Close()
		return errors.New("it was accepted")
	}
	if response == nil || response.StatusCode != http.StatusForbidden {
		return fmt.Errorf("refused by %w", err)
	}
	return nil
}

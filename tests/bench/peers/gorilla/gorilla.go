// An echo server of gorilla/websocket, to measure ours against.
//
//	gorilla [-listen 127.0.0.1:0] [-topic]
//
// With -topic everybody is in one topic, and what anybody says goes to all.
//
// As its documentation recommends for speed: no compression, one buffer for each connection that its messages come into and go
// out of, in one frame and by one system call, buffers for writing from a pool. In a topic a message is prepared once for all,
// and a goroutine writes for each connection. One thread runs Go, as our server has one shard when it is measured.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"github.com/gorilla/websocket"
)

const (
	messageBytesMax   = 16 << 20
	bufferBytes       = 4096
	queuedMessagesMax = 4096
)

var upgrader = websocket.Upgrader{
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true },
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	withTopic := flag.Bool("topic", false, "everybody is in one topic")
	flag.Parse()
	runtime.GOMAXPROCS(1)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()

	serve := echo
	if *withTopic {
		serve = publish
	}
	listener, err := net.Listen("tcp", *listen)
	if err == nil {
		fmt.Println("listening on", listener.Addr())
		err = http.Serve(listener, http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
			socket, err := upgrader.Upgrade(response, request, nil)
			if err != nil {
				return
			}
			socket.SetReadLimit(messageBytesMax)
			// A goroutine of its own begins with a small stack and lets go of the request.
			go serve(socket)
		}))
	}
	fmt.Fprintln(os.Stderr, "gorilla:", err)
	os.Exit(1)
}

// Until the peer is gone; why it went is the load generator's to judge.
func echo(socket *websocket.Conn) {
	defer socket.Close()
	buffer := make([]byte, 0, bufferBytes)
	for {
		kind, message, err := receive(socket, buffer)
		if err != nil || socket.WriteMessage(kind, message) != nil {
			return
		}
		buffer = message[:0]
	}
}

// The next message, in the buffer if it has room for it.
func receive(socket *websocket.Conn, buffer []byte) (int, []byte, error) {
	kind, reader, err := socket.NextReader()
	for err == nil {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, 0)[:len(buffer)]
		}
		var count int
		count, err = reader.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+count]
	}
	if err == io.EOF {
		err = nil
	}
	return kind, buffer, err
}

var room = struct {
	sync.Mutex
	queues map[*websocket.Conn]chan *websocket.PreparedMessage
}{queues: map[*websocket.Conn]chan *websocket.PreparedMessage{}}

func publish(socket *websocket.Conn) {
	queue := make(chan *websocket.PreparedMessage, queuedMessagesMax)
	room.Lock()
	room.queues[socket] = queue
	room.Unlock()
	go func() {
		for message := range queue {
			if socket.WritePreparedMessage(message) != nil {
				socket.Close()
			}
		}
	}()
	for {
		kind, bytes, err := socket.ReadMessage()
		if err != nil {
			break
		}
		message, err := websocket.NewPreparedMessage(kind, bytes)
		if err != nil {
			break
		}
		room.Lock()
		for _, queue := range room.queues {
			queue <- message
		}
		room.Unlock()
	}
	room.Lock()
	delete(room.queues, socket)
	room.Unlock()
	close(queue)
	socket.Close()
}

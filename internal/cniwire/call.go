package cniwire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what a caller reads of an answer.
const maxAnswer = 16 << 20

// Call makes one call on a connection to the daemon's socket. It returns the answer, and whether that is one of
// success. It speaks just the HTTP/1.1 that this takes: net/http would more than double the shim's start-up time.
func Call(conn net.Conn, plugin string, req *Request, deadline time.Time) (ok bool, answer []byte, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return false, nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return false, nil, err
	}
	head := "POST " + PathPrefix + plugin + " HTTP/1.1\r\nHost: patchbay\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return false, nil, err
	}
	return readAnswer(bufio.NewReader(io.LimitReader(conn, maxAnswer)))
}

func readAnswer(r *bufio.Reader) (ok bool, answer []byte, err error) {
	lines := textproto.NewReader(r)
	status, err := lines.ReadLine()
	if err != nil {
		return false, nil, unexpected(err)
	}
	_, code, _ := strings.Cut(status, " ")
	if !strings.HasPrefix(status, "HTTP/1.") || len(code) < 3 {
		return false, nil, fmt.Errorf("not an HTTP answer: %q", status)
	}
	header, err := lines.ReadMIMEHeader()
	if err != nil {
		return false, nil, unexpected(err)
	}
	length := header.Get("Content-Length")
	switch {
	case strings.EqualFold(header.Get("Transfer-Encoding"), "chunked"):
		answer, err = readChunks(lines)
	case length != "":
		n, convErr := strconv.ParseUint(length, 10, 31)
		if convErr != nil || n > maxAnswer {
			return false, nil, fmt.Errorf("answer has Content-Length %q", length)
		}
		answer = make([]byte, n)
		_, err = io.ReadFull(r, answer)
	default:
		answer, err = io.ReadAll(r)
	}
	return code[:3] == "200", answer, unexpected(err)
}

// readChunks reads a chunked body, RFC 9112 section 7.1; trailers are of no use here.
func readChunks(lines *textproto.Reader) ([]byte, error) {
	var all bytes.Buffer
	for {
		line, err := lines.ReadLine()
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 31)
		if err != nil || n > maxAnswer {
			return nil, fmt.Errorf("chunk of size %q", size)
		}
		if n == 0 {
			return all.Bytes(), nil
		}
		if _, err := io.CopyN(&all, lines.R, int64(n)); err != nil {
			return nil, err
		}
		if end, err := lines.ReadLine(); err != nil || end != "" {
			return nil, errors.Join(errors.New("chunk without an end"), err)
		}
	}
}

// unexpected turns an end of the connection that comes too early into an error that says so.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

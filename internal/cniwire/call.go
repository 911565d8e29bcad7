package cniwire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what a caller reads of an answer.
const maxAnswer = 16 << 20

// Call makes one call on a connection to the daemon's socket and returns whether it was answered
// with success, and the answer. It speaks just the HTTP/1.1 that this takes: net/http would more
// than double the time that the shim needs to start.
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
	status, err := readLine(r)
	if err != nil {
		return false, nil, err
	}
	_, code, _ := strings.Cut(status, " ")
	if !strings.HasPrefix(status, "HTTP/1.") || len(code) < 3 {
		return false, nil, fmt.Errorf("not an HTTP answer: %q", status)
	}
	length, chunked := -1, false
	for {
		line, err := readLine(r)
		if err != nil {
			return false, nil, err
		}
		if line == "" {
			break
		}
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.ToLower(key) {
		case "content-length":
			if length, err = strconv.Atoi(value); err != nil || length < 0 || length > maxAnswer {
				return false, nil, fmt.Errorf("answer has Content-Length %q", value)
			}
		case "transfer-encoding":
			chunked = strings.EqualFold(value, "chunked")
		}
	}
	switch {
	case chunked:
		answer, err = readChunks(r)
	case length >= 0:
		answer = make([]byte, length)
		_, err = io.ReadFull(r, answer)
	default:
		answer, err = io.ReadAll(r)
	}
	return code[:3] == "200", answer, err
}

// readChunks reads a chunked body, RFC 9112 section 7.1; trailers are of no use here.
func readChunks(r *bufio.Reader) ([]byte, error) {
	var all []byte
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 31)
		if err != nil || n > maxAnswer {
			return nil, fmt.Errorf("chunk of size %q", size)
		}
		if n == 0 {
			return all, nil
		}
		chunk := make([]byte, n)
		if _, err := io.ReadFull(r, chunk); err != nil {
			return nil, err
		}
		all = append(all, chunk...)
		if end, err := readLine(r); err != nil || end != "" {
			return nil, errors.Join(errors.New("chunk without an end"), err)
		}
	}
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimRight(line, "\r\n"), err
}

package testnode

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between the daemon and a server, and does to what passes what a network can do.
type Proxy struct {
	network, to string
	listener    net.Listener

	mu      sync.Mutex
	delay   time.Duration
	hanging bool
	losing  int // answers that are to be lost
	lost    int
	free    chan struct{} // closed when it no longer hangs
	conns   map[net.Conn]bool
}

// StartProxy listens at an address, "127.0.0.1:0" or a socket's path, for connections to the server at another.
func StartProxy(t testing.TB, network, at, to string) *Proxy {
	t.Helper()
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{network: network, to: to, listener: l, free: make(chan struct{}), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.join(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.Pass()
		p.Cut()
		wg.Wait()
	})
	return p
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Pass lets everything pass, as at first.
func (p *Proxy) Pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.losing = 0, 0
	if p.hanging {
		close(p.free)
		p.hanging, p.free = false, make(chan struct{})
	}
}

// Delay holds each packet up.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Hang lets nothing pass, and keeps the connections.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hanging = true
}

// Cut ends the connections that there are.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Lose cuts the connection in place of each of the next n answers: what was asked for is done, and nobody is told.
func (p *Proxy) Lose(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = n
}

// Lost is how many answers were lost.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// loses reports whether an answer is lost.
func (p *Proxy) loses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.losing <= 0 {
		return false
	}
	p.losing--
	p.lost++
	return true
}

func (p *Proxy) join(c net.Conn) {
	s, err := net.Dial(p.network, p.to)
	if err != nil {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[s] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(s, c, func() bool { return false }) })
	wg.Go(func() { p.copy(c, s, p.loses) })
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, s)
	p.mu.Unlock()
}

// copy passes on until one of the two ends or something is lost, and then ends both.
func (p *Proxy) copy(to, from net.Conn, lost func() bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || lost() {
			return
		}
		p.mu.Lock()
		delay, hanging, free := p.delay, p.hanging, p.free
		p.mu.Unlock()
		if hanging {
			<-free
		}
		time.Sleep(delay) // it is what a slow network does
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

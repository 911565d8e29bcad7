// Package shield keeps pods away from the node's own network stack. On the userspace datapath Open vSwitch
// reads a pod's frames from the host's end of its veth pair, but the kernel sees them there, too: without
// the shield it answers a pod's ARP requests for the node's addresses, takes the packets that pods send to
// them, past every rule of the switch, and believes their router advertisements (CVE-2020-10749).
package shield

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/mdlayher/netlink"
	rtnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/link"
)

// retryPause is the pause after a failure: nothing tells when the kernel accepts rules again.
const retryPause = time.Second

// A Shield has nftables drop what comes from the links of a group. Its rules stay as long as there are such
// links, whether the daemon runs or not.
type Shield struct {
	rules rules
	log   *slog.Logger
	tried chan struct{} // closed after the first attempt to put the rules in place

	mu  sync.Mutex
	err error // why the rules are not in place
}

// New returns a shield for the links of a group (ip link set dev NAME group GROUP).
func New(group uint32, log *slog.Logger) *Shield {
	return &Shield{rules: rules{group}, log: log, tried: make(chan struct{}), err: errors.New("the rules are not in place yet")}
}

// Run puts the rules in place, and again whenever they were removed, until the context ends.
func (s *Shield) Run(ctx context.Context) {
	defer s.leave()
	tried := sync.OnceFunc(func() { close(s.tried) })
	for {
		err := s.keep(ctx, tried)
		if ctx.Err() != nil {
			return
		}
		s.set(err)
		s.log.Error("pods may reach the node through their ports", "error", err)
		tried()
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return
		}
	}
}

// leave removes the rules if there is nothing to shield.
func (s *Shield) leave() {
	if err := Leave(s.rules.group); err != nil {
		s.log.Warn("rules of nftables may be left", "table", tableName, "error", err)
	}
}

// Leave removes the rules for the links of a group if there is no such link.
func Leave(group uint32) error {
	links, err := link.Links()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(links, func(l rtnetlink.Link) bool { return l.Attrs().Group == group }) {
		return nil
	}
	if err := (rules{group}).remove(); err != nil {
		return fmt.Errorf("remove table %s of nftables: %w", tableName, err)
	}
	return nil
}

// Ready waits until the rules are in place, or could not be put there.
func (s *Shield) Ready(ctx context.Context) error {
	select {
	case <-s.tried:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Check says why the rules are not in place.
func (s *Shield) Check(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return "", fmt.Errorf("pods may reach the node through their ports: %w", s.err)
	}
	return "the node takes nothing that pods send to it through their ports", nil
}

func (s *Shield) set(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

// keep puts the rules in place as often as they are missing, and calls placed each time they are there.
func (s *Shield) keep(ctx context.Context, placed func()) error {
	removals, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = removals.Close() })()
	defer removals.Close()
	if err := removals.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("follow nftables: %w", err)
	}
	for {
		there, err := s.rules.there()
		if err != nil {
			return fmt.Errorf("read rules of nftables: %w", err)
		}
		if !there {
			if err := failpoint.Hit("shield-place"); err != nil {
				return err
			}
			if err := s.rules.place(); err != nil {
				return fmt.Errorf("set rules of nftables: %w", err)
			}
			s.log.Info("nftables now drops what pods send to the node through their ports", "table", tableName)
		}
		s.set(nil)
		placed()
		if err := awaitRemoval(removals); err != nil {
			return err
		}
	}
}

// awaitRemoval waits until a table, a chain or a rule of nftables was removed, whosever it was.
func awaitRemoval(c *netlink.Conn) error {
	for {
		messages, err := c.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return nil // it may be among those that were lost
		}
		if err != nil {
			return fmt.Errorf("follow nftables: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELCHAIN,
				unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE:
				return nil
			}
		}
	}
}

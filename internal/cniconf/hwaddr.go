package cniconf

import (
	"errors"
	"fmt"
	"net"
)

// HardwareAddr reads the hardware address that an interface is to have: six bytes, unicast.
func HardwareAddr(text string) (net.HardwareAddr, error) {
	hw, err := net.ParseMAC(text)
	switch {
	case err != nil || len(hw) != 6:
		return nil, fmt.Errorf("%q is not a hardware address of six bytes, such as 02:00:00:00:00:01", text)
	case hw.String() == "00:00:00:00:00:00":
		return nil, errors.New("an interface can't have 00:00:00:00:00:00: write a unicast address, such as 02:00:00:00:00:01, or leave it out")
	case hw.String() == "ff:ff:ff:ff:ff:ff":
		return nil, errors.New("ff:ff:ff:ff:ff:ff is the broadcast address: write a unicast one, such as 02:00:00:00:00:01, or leave it out")
	case hw[0]&1 == 1:
		return nil, fmt.Errorf("%s is a multicast address (its first byte is odd): write a unicast one, such as 02:00:00:00:00:01, or leave it out", text)
	}
	return hw, nil
}

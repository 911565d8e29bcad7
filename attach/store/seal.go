package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/cniresult"
	"github.com/patchbay-cni/patchbay/internal/etcd"
)

// RecordVersion is that of the records which this release writes. Those of releases before it have none.
const RecordVersion = 1

// A record is a sandbox as etcd has it. Its signature is the last of its fields.
type record struct {
	Version int `json:"version"`
	// Written is when it was, since the node was booted. Records of the releases before have no such time.
	Written time.Duration `json:"written,omitempty"`
	*attach.Sandbox
}

// A Key signs records: what a record names is executed as root, so that nobody else may have written it.
type Key []byte

const keySize = 32

// LoadKey reads the key in a file. If there is none it makes one.
func LoadKey(file string) (Key, error) {
	b, err := os.ReadFile(file)
	if err == nil && len(b) == keySize {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	k := make(Key, keySize)
	_, _ = rand.Read(k) // it never fails
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	return k, renameio.WriteFile(file, k, 0o600)
}

const signatureField = `,"signature":"`

// seal appends the signature to a record: the key's HMAC-SHA256 of where it is, and of all else that it says.
func (k Key) seal(at string, value []byte) string {
	return string(value[:len(value)-1]) + signatureField + hex.EncodeToString(k.sum(at, value)) + `"}`
}

func (k Key) sum(at string, value []byte) []byte {
	h := hmac.New(sha256.New, k)
	_, _ = fmt.Fprintf(h, "%d %s %s", len(at), at, value) // a hash takes all that it is given
	return h.Sum(nil)
}

// sealed reports whether this node has written a record, there and as it is.
func (k Key) sealed(at string, value []byte) bool {
	i := bytes.LastIndex(value, []byte(signatureField))
	if i < 0 {
		return false
	}
	text, ok := strings.CutSuffix(string(value[i+len(signatureField):]), `"}`)
	sum, err := hex.DecodeString(text)
	return ok && err == nil && hmac.Equal(sum, k.sum(at, append(bytes.Clone(value[:i]), '}')))
}

// read reads a record. One that this node has not written, as those of the release before, is checked as if it
// were asked for now; one that it can't have written is refused.
func (s *Store) read(key string, value []byte, written map[string]etcd.Copy) (*attach.Sandbox, error) {
	sb, err := decode(strings.TrimPrefix(key, s.sandboxes()), value)
	if err == nil {
		err = s.genuine(key, value, written)
	}
	if err != nil || s.Key.sealed(key, value) || s.Vet == nil {
		return sb, err
	}
	if err := s.Vet(sb); err != nil {
		return nil, fmt.Errorf("this node has not written it as it is, and it is refused: %w", err)
	}
	return sb, nil
}

// decode reads a record. It refuses what can't be acted upon, and nothing else: fields that it does not know are
// those of another release.
func decode(containerID string, value []byte) (*attach.Sandbox, error) {
	r := record{Sandbox: &attach.Sandbox{}}
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	sb := r.Sandbox
	if r.Version > RecordVersion {
		return nil, fmt.Errorf("it has version %d, of a newer release; this one knows %d", r.Version, RecordVersion)
	}
	if sb == nil || sb.ContainerID != containerID {
		return nil, errors.New("it is not of sandbox " + containerID)
	}
	for _, a := range sb.Attachments {
		if a.Spec.Config == nil {
			return nil, fmt.Errorf("attachment %s has no configuration", a.Spec.Interface)
		}
		if !a.Status.Phase.Known() {
			return nil, fmt.Errorf("attachment %s has the unknown phase %q", a.Spec.Interface, a.Status.Phase)
		}
		if a.Status.Phase == attach.Abandoned && a.Status.Deletion == nil {
			return nil, fmt.Errorf("attachment %s is given up, and nothing tells when", a.Spec.Interface)
		}
		if a.Status.Result != nil {
			if err := cniresult.Check(a.Status.Result); err != nil {
				return nil, fmt.Errorf("result of attachment %s: %w", a.Spec.Interface, err)
			}
		}
	}
	return sb, nil
}

// Package image packs container images without a registry or a builder: a docker-archive of one
// layer, as containerd imports it.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// An Image is a layer in the making.
type Image struct {
	Tag        string // such as example.org/name:tag
	Entrypoint []string
	layer      bytes.Buffer
	tar        *tar.Writer
	seen       map[string]bool
}

// New returns an image with nothing in it but a /tmp.
func New(tag string, entrypoint ...string) (*Image, error) {
	i := &Image{Tag: tag, Entrypoint: entrypoint, seen: map[string]bool{}}
	i.tar = tar.NewWriter(&i.layer)
	return i, i.dir("tmp", 0o1777)
}

// FromDockerfile packs what a Dockerfile of the form FROM scratch, COPY, ENTRYPOINT describes.
func FromDockerfile(file, context, tag string) (*Image, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	i, err := New(tag)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#") || words[0] == "LABEL":
		case words[0] == "FROM" && words[1] == "scratch":
		case words[0] == "COPY":
			dst := words[len(words)-1]
			for _, src := range words[1 : len(words)-1] {
				if err := i.File(filepath.Join(context, src), path.Join(dst, path.Base(src))); err != nil {
					return nil, err
				}
			}
		case words[0] == "ENTRYPOINT":
			if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(line), "ENTRYPOINT")), &i.Entrypoint); err != nil {
				return nil, fmt.Errorf("%s: %q: %w", file, line, err)
			}
		default:
			return nil, fmt.Errorf("%s: %q is more than this packer can", file, strings.TrimSpace(line))
		}
	}
	return i, nil
}

func (i *Image) dir(name string, mode int64) error {
	name = strings.Trim(name, "/")
	if name == "" || name == "." || i.seen[name+"/"] {
		return nil
	}
	if err := i.dir(path.Dir(name), 0o755); err != nil {
		return err
	}
	i.seen[name+"/"] = true
	return i.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// add makes the entry unless it is there, and reports whether it did.
func (i *Image) add(h *tar.Header, content []byte) error {
	h.Name = strings.Trim(h.Name, "/")
	if i.seen[h.Name] {
		return nil
	}
	i.seen[h.Name] = true
	if err := i.dir(path.Dir(h.Name), 0o755); err != nil {
		return err
	}
	if err := i.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := i.tar.Write(content)
	return err
}

// File copies an executable.
func (i *Image) File(src, dst string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return i.add(&tar.Header{Name: dst, Mode: 0o755, Size: int64(len(b))}, b)
}

// Link makes a symbolic link.
func (i *Image) Link(name, target string) error {
	return i.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

var library = regexp.MustCompile(`(/[^ ]+) \(0x`)

// Program copies a program and the libraries that it is linked with.
func (i *Image) Program(name string) error {
	if err := i.File(name, name); err != nil {
		return err
	}
	out, err := exec.Command("ldd", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ldd %s: %w: %s", name, err, out)
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		if err := i.File(m[1], m[1]); err != nil {
			return err
		}
	}
	return nil
}

// Busybox puts the static busybox there, with all its applets.
func (i *Image) Busybox() error {
	if err := i.File("/bin/busybox", "/bin/busybox"); err != nil {
		return err
	}
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, a := range strings.Fields(string(out)) {
		if err := i.Link("/bin/"+a, "/bin/busybox"); err != nil {
			return err
		}
	}
	return nil
}

// Write writes the archive.
func (i *Image) Write(w io.Writer) error {
	if err := i.tar.Close(); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(i.layer.Bytes())}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": []string{i.Tag}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, f := range []struct {
		name    string
		content []byte
	}{{sum(config) + ".json", config}, {"layer.tar", i.layer.Bytes()}, {"manifest.json", manifest}} {
		if err := out.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return err
		}
		if _, err := out.Write(f.content); err != nil {
			return err
		}
	}
	return out.Close()
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/meta"
)

type key struct{ namespace, name string }

type objects struct {
	pods     map[key]*meta.Pod
	networks map[key]*meta.Network
	lines    map[string]int // of each object, by its title
}

// Pods parses a manifest file and returns its pods.
func Pods(path string) ([]meta.Pod, error) {
	o, err := parseFile(path)
	if err != nil {
		return nil, err
	}
	var pods []meta.Pod
	for _, p := range o.pods {
		pods = append(pods, *p)
	}
	return pods, nil
}

func parseFile(path string) (objects, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return objects{}, fmt.Errorf("%s does not exist", path)
	}
	if err != nil {
		return objects{}, err
	}
	read := parse
	if docs, ok := fromJSON(b); ok && filepath.Ext(path) == ".json" {
		read = func([]byte) (objects, error) { return parseAll(docs) }
	}
	o, err := read(b)
	if err != nil {
		return o, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

// An objectError says which object of a file is wrong.
type objectError struct {
	kind string
	key
	err error
}

func (e *objectError) Error() string {
	if e.name == "" {
		return e.kind + ": " + e.err.Error()
	}
	return title(e.kind, e.key) + ": " + e.err.Error()
}
func (e *objectError) Unwrap() error { return e.err }

func title(kind string, k key) string { return fmt.Sprintf("%s %s/%s", kind, k.namespace, k.name) }

// parse reads all documents of a file. Errors tell the line in the file.
func parse(b []byte) (objects, error) {
	var docs []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return parseAll(docs)
		}
		if err != nil {
			return objects{}, fmt.Errorf("%s (is the indentation right, with spaces only?)", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if len(doc.Content) > 0 {
			docs = append(docs, doc.Content[0])
		}
	}
}

func newObjects() objects {
	return objects{pods: map[key]*meta.Pod{}, networks: map[key]*meta.Network{}, lines: map[string]int{}}
}

func parseAll(docs []*yaml.Node) (objects, error) {
	o := newObjects()
	for _, doc := range docs {
		err := checkAliases(doc)
		if err == nil {
			err = o.add(doc)
		}
		if err != nil {
			return o, fmt.Errorf("line %d: %w", doc.Line, err)
		}
	}
	return o, nil
}

// An object is what is needed of a manifest. Scalars are taken as they are written: y, 1.10 and 0x10
// are names as any other, whatever YAML would make of them.
type object struct {
	kind, apiVersion string
	key
	uid         string
	annotations map[string]string
	config      string // of a network; "": it is on disk
}

// kinds are the kinds that are read. Their keys are listed, as a misspelt one would be dropped in silence.
var kinds = map[string]struct {
	apiVersion string
	keys       []string
}{
	"Pod":                         {"v1", []string{"apiVersion", "kind", "metadata", "spec", "status"}},
	"NetworkAttachmentDefinition": {nad.SchemeGroupVersion.String(), []string{"apiVersion", "kind", "metadata", "spec"}},
}

var (
	listKeys     = []string{"apiVersion", "kind", "metadata", "items"}
	metadataKeys = []string{"name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp",
		"deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers", "managedFields"}
)

// objectName is what the API server takes for a name.
var objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// add keeps the object of a document, if it is one of ours.
func (o objects) add(doc *yaml.Node) error {
	switch {
	case isNull(doc):
		return nil // an empty document
	case doc.Kind != yaml.MappingNode:
		return fmt.Errorf("it must be a Kubernetes object, not %s", kindOf(doc))
	}
	kind := value(doc, "kind")
	if kind != nil && kind.Value == "List" {
		return o.addItems(doc)
	}
	if kind == nil || kinds[kind.Value].keys == nil {
		return nil // other kinds are none of our business
	}
	obj := object{kind: kind.Value, key: key{namespace: metav1.NamespaceDefault}}
	err := obj.read(doc)
	at := title(obj.kind, obj.key)
	if line := o.lines[at]; err == nil && line > 0 {
		err = fmt.Errorf("it is in this file twice, in lines %d and %d: remove one of them", line, doc.Line)
	}
	if err != nil {
		return &objectError{obj.kind, obj.key, err}
	}
	o.lines[at] = doc.Line
	if obj.kind == "Pod" {
		o.pods[obj.key] = &meta.Pod{Namespace: obj.namespace, Name: obj.name, UID: obj.uid, Annotations: obj.annotations}
	} else {
		o.networks[obj.key] = &meta.Network{Namespace: obj.namespace, Name: obj.name, Config: obj.config}
	}
	return nil
}

// addItems keeps the objects of a List, as kubectl get writes it. A List in a List is refused: nobody
// writes one, and through aliases a small file could name items without end.
func (o objects) addItems(list *yaml.Node) error {
	if err := checkKeys(list, "the List", listKeys); err != nil {
		return err
	}
	items := value(list, "items")
	switch {
	case items == nil:
		return nil
	case items.Kind != yaml.SequenceNode:
		return fmt.Errorf("line %d: items of the List must be a list, not %s", items.Line, kindOf(items))
	}
	for i, item := range items.Content {
		item = resolve(item)
		var err error
		switch kind := value(item, "kind"); {
		case item.Kind == yaml.MappingNode && kind == nil:
			err = errors.New("kind is missing")
		case kind != nil && kind.Value == "List":
			err = errors.New("a List in a List is not read: put its items into the outer one")
		default:
			err = o.add(item)
		}
		if err != nil {
			return fmt.Errorf("items[%d] (line %d): %w", i, item.Line, err)
		}
	}
	return nil
}

func (obj *object) read(doc *yaml.Node) error {
	m := value(doc, "metadata")
	kind := kinds[obj.kind]
	err := errors.Join(
		scalar(value(m, "namespace"), "metadata.namespace", &obj.namespace),
		scalar(value(m, "name"), "metadata.name", &obj.name),
		scalar(value(m, "uid"), "metadata.uid", &obj.uid),
		scalar(value(doc, "apiVersion"), "apiVersion", &obj.apiVersion),
		checkKeys(doc, "the object", kind.keys),
		checkKeys(m, "metadata", metadataKeys))
	switch {
	case err != nil:
		return err
	case obj.name == "":
		return errors.New("metadata.name is missing")
	case !objectName.MatchString(obj.name):
		return fmt.Errorf("metadata.name: %q is not a name: lower-case letters, digits, dashes and dots", obj.name)
	case !objectName.MatchString(obj.namespace):
		return fmt.Errorf("metadata.namespace: %q is not a name: lower-case letters, digits and dashes", obj.namespace)
	case obj.apiVersion != kind.apiVersion:
		return fmt.Errorf("apiVersion must be %s, not %q", kind.apiVersion, obj.apiVersion)
	}
	if err := obj.readAnnotations(value(m, "annotations")); err != nil || obj.kind == "Pod" {
		return err
	}
	return obj.readConfig(value(doc, "spec"))
}

func (obj *object) readAnnotations(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	if err := checkKeys(n, "metadata.annotations", nil); err != nil {
		return err
	}
	obj.annotations = map[string]string{}
	for _, f := range fields(n) {
		var t string
		if err := scalar(f.value, "annotation "+f.key.Value, &t); err != nil {
			return err
		}
		obj.annotations[f.key.Value] = t
	}
	return nil
}

func (obj *object) readConfig(spec *yaml.Node) error {
	if err := checkKeys(spec, "spec", []string{"config"}); err != nil {
		return err
	}
	n := value(spec, "config")
	if err := scalar(n, "spec.config", &obj.config); err != nil || obj.config == "" {
		return err
	}
	if _, err := cniconf.Parse([]byte(obj.config), obj.name); err != nil {
		return fmt.Errorf("spec.config (line %d): %w", n.Line, err)
	}
	return nil
}

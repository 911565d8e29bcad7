package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	yamlv3 "go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/meta"
)

type key struct{ namespace, name string }

type objects struct {
	pods     map[key]*meta.Pod
	networks map[key]*meta.Network
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
	if err != nil {
		return objects{}, err
	}
	o, err := parse(b)
	if err != nil {
		return o, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

// parse reads all documents of a file. Errors tell the line in the file.
func parse(b []byte) (objects, error) {
	o := objects{pods: map[key]*meta.Pod{}, networks: map[key]*meta.Network{}}
	dec := yamlv3.NewDecoder(bytes.NewReader(b))
	for {
		var doc yamlv3.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err != nil {
			return o, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if err := o.add(&doc); err != nil {
			return o, fmt.Errorf("line %d: %w", firstLine(&doc), err)
		}
	}
}

func firstLine(doc *yamlv3.Node) int {
	if len(doc.Content) > 0 {
		return doc.Content[0].Line
	}
	return doc.Line
}

func (o objects) add(doc *yamlv3.Node) error {
	text, err := yamlv3.Marshal(doc)
	if err != nil {
		return err
	}
	var head struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("not a Kubernetes object: %w", err)
	}
	if head.Namespace == "" {
		head.Namespace = metav1.NamespaceDefault
	}
	at := key{head.Namespace, head.Name}
	switch {
	case head.Kind == "Pod" && head.APIVersion == "v1":
		if head.Name == "" {
			return errors.New("pod without metadata.name")
		}
		o.pods[at] = &meta.Pod{Namespace: at.namespace, Name: at.name, UID: string(head.UID), Annotations: head.Annotations}
	case head.Kind == "NetworkAttachmentDefinition" && head.APIVersion == nad.SchemeGroupVersion.String():
		if head.Name == "" {
			return errors.New("NetworkAttachmentDefinition without metadata.name")
		}
		var n nad.NetworkAttachmentDefinition
		if err := yaml.UnmarshalStrict(text, &n); err != nil {
			return fmt.Errorf("NetworkAttachmentDefinition %s/%s: %w", at.namespace, at.name, err)
		}
		if n.Spec.Config != "" {
			if _, err := cniconf.Parse([]byte(n.Spec.Config), n.Name); err != nil {
				return fmt.Errorf("NetworkAttachmentDefinition %s/%s: spec.config (line %d): %w", at.namespace, at.name, configLine(doc), err)
			}
		}
		o.networks[at] = &meta.Network{Namespace: at.namespace, Name: at.name, Config: n.Spec.Config}
	}
	return nil // other kinds are none of our business
}

// configLine is the line of spec.config in the file.
func configLine(doc *yamlv3.Node) int {
	n := doc
	if len(n.Content) > 0 && n.Kind == yamlv3.DocumentNode {
		n = n.Content[0]
	}
	for _, name := range []string{"spec", "config"} {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				n = n.Content[i+1]
				break
			}
		}
	}
	return n.Line
}

package kube

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/meta"
)

func TestASnapshotHasTheDevicesThatPodsRequest(t *testing.T) {
	asks := func(n string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"intel.com/vf": resource.MustParse(n), "cpu": resource.MustParse("1")}}}
	}
	stays := asks("1")
	always := corev1.ContainerRestartPolicyAlways
	stays.RestartPolicy = &always
	s := &Snapshot{Requests: map[string]map[string]int{}, Claimers: map[string]bool{}}
	pod := func(name string, spec corev1.PodSpec, phase corev1.PodPhase) {
		s.addPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name, Annotations: map[string]string{meta.NetworksAnnotation: "vf"}},
			Spec: spec, Status: corev1.PodStatus{Phase: phase}})
	}
	pod("two", corev1.PodSpec{Containers: []corev1.Container{asks("1"), asks("1")}}, corev1.PodRunning)
	pod("init", corev1.PodSpec{Containers: []corev1.Container{asks("1")}, InitContainers: []corev1.Container{asks("3"), stays}}, corev1.PodPending)
	pod("done", corev1.PodSpec{}, corev1.PodSucceeded)
	if len(s.Pods) != 2 {
		t.Errorf("%+v", s.Pods)
	}
	for name, want := range map[string]map[string][]string{
		"two":  {"intel.com/vf": {"device-1", "device-2"}},
		"init": {"intel.com/vf": {"device-1", "device-2", "device-3"}},
	} {
		have, err := s.Devices(context.Background(), "lab", name)
		if d := cmp.Diff(want, have); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
}

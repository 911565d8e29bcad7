package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/meta"
)

// maxBody bounds a review: two versions of an object of 1.5 MiB at most.
const maxBody = 4 << 20

// Handler answers reviews of the API server (admission.k8s.io/v1) on any path.
func Handler(j *Judge, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var review admissionv1.AdmissionReview
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err == nil && review.Request == nil {
			err = fmt.Errorf("no request in it")
		}
		if err != nil {
			http.Error(w, "not an AdmissionReview: "+err.Error(), http.StatusBadRequest)
			return
		}
		req := review.Request
		warnings, err := judge(r.Context(), j, req)
		review.Response = &admissionv1.AdmissionResponse{UID: req.UID, Allowed: err == nil, Warnings: warnings}
		if err != nil {
			log.Info("refused", "kind", req.Kind.Kind, "object", req.Namespace+"/"+req.Name, "operation", req.Operation, "by", req.UserInfo.Username, "error", err)
			review.Response.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: err.Error()}
		}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review) // the API server may have gone: it fails open
	})
}

func judge(ctx context.Context, j *Judge, req *admissionv1.AdmissionRequest) (warnings []string, err error) {
	switch req.Kind.Kind {
	case "NetworkAttachmentDefinition":
		var o, old nad.NetworkAttachmentDefinition
		if err := decode(req.Object.Raw, &o); err != nil {
			return nil, err
		}
		if req.Operation != admissionv1.Delete {
			return nil, j.Network(meta.Network{Namespace: req.Namespace, Name: o.Name, Config: o.Spec.Config})
		}
		if err := decode(req.OldObject.Raw, &old); err != nil {
			return nil, err
		}
		return nil, j.Deletion(ctx, meta.Network{Namespace: req.Namespace, Name: req.Name}, old.Annotations[ForceAnnotation] == "true")
	case "Pod":
		var o, old metav1.PartialObjectMetadata
		if err := decode(req.Object.Raw, &o); err != nil {
			return nil, err
		}
		if err := decode(req.OldObject.Raw, &old); err != nil {
			return nil, err
		}
		if unchanged(&o, &old) {
			return nil, nil // a pod that is refused now must not be held: it may be on its way out
		}
		return j.Pod(ctx, meta.Pod{Namespace: req.Namespace, Name: o.Name, Annotations: o.Annotations})
	}
	return nil, nil
}

func unchanged(o, old *metav1.PartialObjectMetadata) bool {
	for _, k := range []string{meta.NetworksAnnotation, meta.DefaultNetworkAnnotation} {
		if o.Annotations[k] != old.Annotations[k] {
			return false
		}
	}
	return true
}

func decode(raw []byte, into any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	return json.Unmarshal(raw, into)
}

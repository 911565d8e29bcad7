package admission

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/meta"
)

// Handler answers reviews of the API server (admission.k8s.io/v1) on any path.
func Handler(j *Judge, log *slog.Logger) http.Handler {
	b := newBounds()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, release, err := b.read(w, r)
		defer release()
		if err == nil {
			err = b.begin(r.Context())
		}
		if errors.Is(err, errBusy) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		var review admissionv1.AdmissionReview
		if err == nil {
			defer b.end()
			err = json.Unmarshal(body, &review)
		}
		if err == nil && review.Request == nil {
			err = errors.New("no request in it")
		}
		if err != nil {
			http.Error(w, "not an AdmissionReview: "+err.Error(), http.StatusBadRequest)
			return
		}
		req := review.Request
		warnings, err := j.review(r.Context(), req)
		review.Response = &admissionv1.AdmissionResponse{UID: req.UID, Allowed: err == nil, Warnings: warnings}
		if err != nil {
			log.Info("refused", "kind", req.Kind.Kind, "object", req.Namespace+"/"+req.Name, "operation", req.Operation, "by", req.UserInfo.Username, "error", err)
			review.Response.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: err.Error()}
			if fault.Of(err).Passes() {
				review.Response.Result.Code, review.Response.Result.Reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
			}
		}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review) // the API server may have gone: it fails open
	})
}

func (j *Judge) review(ctx context.Context, req *admissionv1.AdmissionRequest) (warnings []string, err error) {
	switch req.Kind.Kind {
	case "NetworkAttachmentDefinition":
		var o, old nad.NetworkAttachmentDefinition
		if err := decode(req, &o, &old); err != nil {
			return nil, err
		}
		switch {
		case req.Operation != admissionv1.Delete:
			return nil, j.Network(meta.Network{Namespace: req.Namespace, Name: o.Name, Config: o.Spec.Config})
		case old.Annotations[ForceAnnotation] == "true":
			return nil, nil
		}
		return nil, j.Deletion(req.Namespace + "/" + req.Name)
	case "Pod":
		var o, old metav1.PartialObjectMetadata
		if err := decode(req, &o, &old); err != nil {
			return nil, err
		}
		same := func(annotation string) bool { return o.Annotations[annotation] == old.Annotations[annotation] }
		if same(meta.NetworksAnnotation) && same(meta.DefaultNetworkAnnotation) {
			return nil, nil // a pod that is refused now must not be held: it may be on its way out
		}
		return j.Pod(ctx, meta.Pod{Namespace: req.Namespace, Name: o.Name, Annotations: o.Annotations})
	}
	return nil, nil
}

// decode reads the object as it is to be, and as it was. A deleted one is not to be, a new one was not.
func decode(req *admissionv1.AdmissionRequest, o, old any) (err error) {
	if len(req.Object.Raw) > 0 {
		err = json.Unmarshal(req.Object.Raw, o)
	}
	if len(req.OldObject.Raw) > 0 {
		err = errors.Join(err, json.Unmarshal(req.OldObject.Raw, old))
	}
	return err
}

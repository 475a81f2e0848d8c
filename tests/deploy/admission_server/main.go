// Evaluates a ValidatingAdmissionPolicy as an API server does, by the library that API servers are made of.
//
// Standard input: {"Policy", "Binding", "Requests"}; output: for each request the text of its refusal, or "".
// Debian has the library from forky on: apt install golang-go golang-k8s-apiserver-dev, then, in this folder,
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o /tmp/admission .
//	MINERWATCH_TEST_ADMISSION=/tmp/admission .venv/bin/pytest tests/deploy/test_admission_policy.py
package main

import (
	"context"
	"encoding/json"
	"os"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

type request struct {
	Operation   string
	Resource    string
	Subresource string
	Username    string
	Extra       map[string][]string
	Object      *corev1.Pod
	OldObject   *corev1.Pod
}

type input struct {
	Policy   admissionv1.ValidatingAdmissionPolicy
	Binding  admissionv1.ValidatingAdmissionPolicyBinding
	Requests []request
}

type nobody struct{}

func (nobody) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, "", nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "hub"}}
	client := fake.NewSimpleClientset(&in.Policy, &in.Binding, namespace)
	factory := informers.NewSharedInformerFactory(client, 0)
	plugin, err := validating.NewPlugin(nil)
	must(err)
	stop := make(chan struct{})
	plugin.SetExternalKubeInformerFactory(factory)
	plugin.SetExternalKubeClientSet(client)
	plugin.SetRESTMapper(meta.NewDefaultRESTMapper(nil))
	plugin.SetDynamicClient(dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()))
	plugin.SetDrainedNotification(stop)
	plugin.SetAuthorizer(nobody{})
	must(plugin.ValidateInitialization())
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	objects := admission.NewObjectInterfacesFromScheme(scheme.Scheme)
	answers := []string{}
	for _, r := range in.Requests {
		pod := r.OldObject
		if pod == nil {
			pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "hub"}}
		}
		var object, old runtime.Object
		if r.Object != nil {
			object = r.Object
		}
		if r.OldObject != nil {
			old = r.OldObject
		}
		attributes := admission.NewAttributesRecord(
			object, old, schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, pod.Namespace, pod.Name,
			schema.GroupVersionResource{Version: "v1", Resource: r.Resource}, r.Subresource,
			admission.Operation(r.Operation), nil, false,
			&user.DefaultInfo{Name: r.Username, Extra: r.Extra},
		)
		if err := plugin.Validate(context.Background(), attributes, objects); err != nil {
			answers = append(answers, err.Error())
		} else {
			answers = append(answers, "")
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(answers))
}

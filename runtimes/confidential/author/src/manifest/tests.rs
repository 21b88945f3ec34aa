use proptest::prelude::*;

use super::*;

fn refused(text: &str) -> String {
    read("pod.yaml", text).expect_err(text).to_string()
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: web, image: nginx}
";

#[test]
fn each_kind_of_workload_has_its_pod() {
    let template = "template: {spec: {containers: [{name: a, image: b}], restartPolicy: Never}}";
    for (version, kind, spec, path) in [
        (
            "apps/v1",
            "Deployment",
            format!("{{replicas: 2, {template}}}"),
            "spec.template",
        ),
        (
            "apps/v1",
            "StatefulSet",
            format!("{{serviceName: a, {template}}}"),
            "spec.template",
        ),
        (
            "apps/v1",
            "DaemonSet",
            format!("{{{template}}}"),
            "spec.template",
        ),
        (
            "batch/v1",
            "Job",
            format!("{{backoffLimit: 1, {template}}}"),
            "spec.template",
        ),
        (
            "batch/v1",
            "CronJob",
            format!("{{schedule: '* * * * *', jobTemplate: {{spec: {{{template}}}}}}}"),
            "spec.jobTemplate.spec.template",
        ),
    ] {
        let text =
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: it}}\nspec: {spec}\n");
        let manifest = read("f", &text).expect(&text);
        assert_eq!(manifest.pods.len(), 1, "{kind}");
        let pod = &manifest.pods[0];
        assert_eq!(pod.path.join("."), path);
        assert_eq!(pod.naming, Naming::Prefix("it-".to_owned()));
        let told = pod
            .error(Fault::new("why").in_field("containers"))
            .to_string();
        assert_eq!(
            told,
            format!("f: document 1 ({kind} it): {path}.spec.containers: why")
        );
    }
}

#[test]
fn a_list_has_what_is_in_it() {
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        POD.trim().replace('\n', "\n  ")
    );
    let manifest = read("f", &text).expect("a list");
    assert_eq!(manifest.pods[0].naming, Naming::Exact("web".to_owned()));
}

#[test]
fn what_makes_no_pods_is_passed_over() {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{anything: 1}}\n---{POD}"
    );
    assert_eq!(read("f", &text).expect("both").pods.len(), 1);
}

#[test]
fn faults_say_where_they_are() {
    for (text, parts) in [
        (
            POD.replace("v1", "v2"),
            vec![
                "pod.yaml: document 1 (Pod web): line 2: kind: unknown kind \"Pod\"",
                "there are Pod, Deployment",
            ],
        ),
        (
            POD.replace("image: nginx", "image: nginx, imagePullPolice: Always"),
            vec!["spec.containers[0].imagePullPolice: unknown field"],
        ),
        (
            format!("{POD}  volumes:\n  - name: a\n    hostPath: {{path: /}}\n"),
            vec![
                "spec.volumes[0].hostPath: a confidential pod mounts nothing",
                "use emptyDir",
            ],
        ),
        (
            format!("{POD}  volumes:\n  - name: a\n    persistentVolumeClaim: {{claimName: a}}\n"),
            vec!["spec.volumes[0].persistentVolumeClaim: a confidential pod mounts nothing"],
        ),
        (
            format!("{POD}  ephemeralContainers: [{{}}]\n"),
            vec!["spec.ephemeralContainers: nobody may add"],
        ),
        (
            format!("{POD}  restartPolicy: Sometimes\n"),
            vec![
                "spec.restartPolicy: unknown value \"Sometimes\"; there are Always, OnFailure, Never",
            ],
        ),
        (
            POD.replace("image: nginx", "image: 5"),
            vec!["containers[0].image: must be a string", "quote it"],
        ),
        (
            POD.replace("{name: web}\n", "{}\n"),
            vec!["metadata.name: must be given"],
        ),
        ("- a\n".to_owned(), vec!["must be an object"]),
        (
            "apiVersion: v1\nkind: List\n".to_owned(),
            vec!["items: must be a list"],
        ),
    ] {
        let told = refused(&text);
        for part in parts {
            assert!(told.contains(part), "{part}\n{told}");
        }
    }
}

#[test]
fn fields_of_workloads_and_names_are_known_too() {
    let job = "apiVersion: batch/v1
kind: Job
metadata: {name: it, uid: a, managedFields: [], ownerReferences: []}
spec: {suspend: false, template: {metadata: {creationTimestamp: null}, spec: {containers: []}}}
";
    assert_eq!(read("f", job).expect("a Job").pods.len(), 1);
    for (from, to, told) in [
        (
            "suspend: false",
            "completionmode: Indexed",
            "spec.completionmode: unknown field",
        ),
        ("uid: a", "label: {}", "metadata.label: unknown field"),
        ("kind: Job", "kind: Job\nspecs: {}", "specs: unknown field"),
    ] {
        let why = refused(&job.replace(from, to));
        assert!(why.contains(told), "{why}");
    }
}

#[test]
fn a_pod_says_of_its_token_what_its_account_says() {
    let account = |rest: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: shop}}\n{rest}\n---{POD}  serviceAccountName: shop\n"
        )
    };
    let off = "automountServiceAccountToken: false";
    let why = refused(&account(off));
    assert!(
        why.contains("(Pod web): spec.automountServiceAccountToken: the ServiceAccount in this file has false, so say it here, too"),
        "{why}"
    );
    for sound in [
        account(""),
        account("automountServiceAccountToken: true"),
        account(off) + "  automountServiceAccountToken: false\n",
        account(off).replace("serviceAccountName: shop", "serviceAccountName: other"),
    ] {
        read("f", &sound).expect(&sound);
    }
}

#[test]
fn names_of_indexed_jobs_are_cut_before_the_index() {
    let long = "a".repeat(63);
    let job = |mode: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {long}}}\nspec: {{completionMode: {mode}, template: {{spec: {{containers: []}}}}}}\n"
        )
    };
    for (mode, length) in [("Indexed", 46), ("NonIndexed", 58)] {
        let manifest = read("f", &job(mode)).expect(mode);
        assert_eq!(manifest.pods[0].naming, Naming::Prefix("a".repeat(length)));
    }
}

#[test]
fn claims_of_a_stateful_set_are_refused() {
    let told = refused(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  template: {spec: {containers: []}}\n  volumeClaimTemplates: [{}]\n",
    );
    assert!(
        told.contains("spec.volumeClaimTemplates: a confidential pod"),
        "{told}"
    );
}

#[test]
fn contents_are_read_as_kubernetes_has_them() {
    let text = "
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {a: text}
binaryData: {b: /w==}
---
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: shop}
data: {key: c2VjcmV0, other: eA==}
stringData: {other: wins}
type: Opaque
";
    let configs = read("f", text).expect("both").configs;
    let map = configs
        .get(ConfigKind::ConfigMap, Some("shop"), "web")
        .expect("a ConfigMap of any namespace");
    assert_eq!(map.files["b"], [0xff]);
    assert_eq!(map.variables.keys().collect::<Vec<_>>(), ["a"]);
    let secret = configs
        .get(ConfigKind::Secret, Some("shop"), "web")
        .expect("a Secret");
    assert_eq!(
        (
            secret.variables["key"].as_str(),
            secret.variables["other"].as_str()
        ),
        ("secret", "wins")
    );
    assert!(
        configs
            .get(ConfigKind::Secret, Some("else"), "web")
            .is_none()
    );
}

#[test]
fn contents_that_are_none_are_refused() {
    for (fields, why) in [
        ("kind: Secret, data: {a: '*'}", "data.a: is no base64"),
        (
            "kind: ConfigMap, data: {a: x}, binaryData: {a: eA==}",
            "binaryData.a: is in data too",
        ),
        (
            "kind: ConfigMap, stringData: {a: x}",
            "stringData: is a Secret's field",
        ),
        ("kind: ConfigMap, data: {a: 1}", "data.a: must be a string"),
    ] {
        let told = refused(&format!(
            "{{apiVersion: v1, metadata: {{name: c}}, {fields}}}"
        ));
        assert!(told.contains(why), "{told}");
    }
    let twice = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n";
    assert!(refused(twice).contains("document 2 (ConfigMap c): line 3: is there twice"));
}

proptest! {
    /// A field that is not known is refused wherever in a pod it stands.
    #[test]
    fn an_unknown_field_is_refused_anywhere(place in 0usize..6, name in "[a-z]{12,16}") {
        let field = format!("{name}: 1");
        let pod = POD.replace("- {name: web, image: nginx}", "- name: web\n    image: nginx");
        let text = match place {
            0 => format!("{pod}{field}\n"),
            1 => format!("{pod}  {field}\n"),
            2 => format!("{pod}    {field}\n"),
            3 => format!("{pod}    securityContext: {{{field}}}\n"),
            4 => format!("{pod}    livenessProbe: {{exec: {{{field}}}}}\n"),
            _ => format!("{pod}    env: [{{name: a, valueFrom: {{fieldRef: {{fieldPath: a, {field}}}}}}}]\n"),
        };
        let told = refused(&text);
        prop_assert!(told.contains(&format!("{name}: unknown field")), "{}", told);
    }
}

//! The fields that change what runs and that a confidential pod can't have, each with what to use instead.
//!
//! They are in no type of [`super`], so the reader comes here when it meets one. Any other name is unknown.

/// Why a field is refused, if it is one of those.
pub(crate) fn why(field: &str) -> Option<&'static str> {
    REFUSED
        .iter()
        .find(|(name, _)| *name == field)
        .map(|(_, why)| *why)
}

/// What a directory of the host's would be.
const NO_SHARING: &str = "a confidential pod mounts nothing that the host can read or change: \
     use emptyDir for scratch, a ConfigMap or Secret for files, or keep data in a service";

const REFUSED: &[(&str, &str)] = &[
    ("awsElasticBlockStore", NO_SHARING),
    ("azureDisk", NO_SHARING),
    ("azureFile", NO_SHARING),
    ("cephfs", NO_SHARING),
    ("cinder", NO_SHARING),
    ("csi", NO_SHARING),
    ("ephemeral", NO_SHARING),
    ("fc", NO_SHARING),
    ("flexVolume", NO_SHARING),
    ("flocker", NO_SHARING),
    ("gcePersistentDisk", NO_SHARING),
    (
        "gitRepo",
        "the node would clone it: clone it in an init container into an emptyDir",
    ),
    ("glusterfs", NO_SHARING),
    ("hostPath", NO_SHARING),
    (
        "image",
        "image volumes are not supported yet: copy the files in an init container into an emptyDir",
    ),
    ("iscsi", NO_SHARING),
    ("nfs", NO_SHARING),
    ("persistentVolumeClaim", NO_SHARING),
    ("photonPersistentDisk", NO_SHARING),
    ("portworxVolume", NO_SHARING),
    ("quobyte", NO_SHARING),
    ("rbd", NO_SHARING),
    ("scaleIO", NO_SHARING),
    ("storageos", NO_SHARING),
    ("vsphereVolume", NO_SHARING),
    (
        "clusterTrustBundle",
        "its contents are not known here: put the certificates into a ConfigMap of this file",
    ),
    (
        "podCertificate",
        "the node would have its key: obtain a key from the broker as a sealed secret",
    ),
    (
        "volumeDevices",
        "block volumes are the host's: use emptyDir for scratch, or keep data in a service",
    ),
    (
        "ephemeralContainers",
        "nobody may add a container to a confidential pod: allow the commands that you need with --allow-exec",
    ),
    (
        "resourceClaims",
        "devices of the host's can't be given to a confidential pod: leave it out",
    ),
    (
        "restartPolicyRules",
        "restarts by rule are not supported: use restartPolicy",
    ),
    (
        "fileKeyRef",
        "variables from a file are not supported: give them by env or envFrom",
    ),
    (
        "hostnameOverride",
        "Kubernetes before 1.34 ignores it: use hostname",
    ),
    (
        "windowsOptions",
        "a confidential pod runs Linux: leave it out",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_refused_once_and_with_an_alternative() {
        for (number, (name, why)) in REFUSED.iter().enumerate() {
            let alternative = [
                "use ",
                "leave it out",
                "in an init container",
                "put ",
                "obtain ",
                "allow ",
                "give ",
            ];
            assert!(alternative.iter().any(|word| why.contains(word)), "{name}");
            assert!(
                REFUSED[number + 1..].iter().all(|(other, _)| other != name),
                "{name}"
            );
        }
    }
}

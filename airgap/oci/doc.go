// Package oci mirrors container images, Helm charts and other artifacts of OCI
// registries, and is the registry that serves them:
// https://github.com/opencontainers/distribution-spec.
//
// A [Ref] names an image as the site writes it: registry, repository, tag or
// digest. An image is a tree of manifests, each named by its [Digest]: an index
// names manifests by platform, a manifest names its config and layers. What is
// attached to an image (signatures, SBOMs) are manifests too, which name it as
// their subject or by a tag made of its digest. A mirror keeps manifests as
// upstream wrote them, so that digests and signatures stay good; of an index
// only the children that the site wants are there.
//
// The tree of a mirror is an OCI image layout. A [Registry] serves the trees of
// the served snapshot under their original names, and beside them, in
// repositories of their own, what the site pushes.
package oci

package oci

const (
	formatName = "oci"
	maxDepth   = 4 // indexes in indexes
)

// Opens OCI image layouts (directory or tar) and what `docker save` writes.
#pragma once

#include "frontend/imagebuild/open_source.h"

namespace postern::imagebuild {

Outcome<OpenedSource> open_oci_layout(const SourceSpec& spec, const OpenOptions& options);

// A tar: docker-archive or oci-archive, by `spec.kind`; kTar looks for either and returns an
// OpenedSource without a source where it is neither.
Outcome<OpenedSource> open_image_archive(const SourceSpec& spec, const OpenOptions& options);

}  // namespace postern::imagebuild

// Source: an image in a registry. Its layers are read while they arrive, several at once; on disk
// are their compressed blobs at most, in the user's cache, or in files without a name.
#pragma once

#include "frontend/imagebuild/oci_json.h"
#include "frontend/imagebuild/open_source.h"
#include "frontend/imagebuild/remote.h"

namespace postern::imagebuild {

Outcome<OpenedSource> open_registry_image(const SourceSpec& spec, const OpenOptions& options);

// The manifest of the image that `reference` means on this platform: through indexes, by digest,
// each with the media type and size that was announced. `digest` is of what the reference itself
// names: the index, where it is one.
struct ChosenManifest {
  net::Manifest document;
  std::string digest;
};

Outcome<ChosenManifest> choose_manifest(net::Registry& registry, const OpenOptions& options);

}  // namespace postern::imagebuild

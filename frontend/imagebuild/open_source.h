// Opens what a SourceSpec names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontend/imagebuild/layout.h"
#include "frontend/imagebuild/source.h"
#include "frontend/imagebuild/spec.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {

class Remote;

struct OpenedSource {
  std::vector<UniqueFd> files;  // that `source` reads; closed after it
  std::unique_ptr<Source> source;
  ImageConfig config;
  std::string oci_config;  // of a SIF: that object, to be kept
};

struct OpenOptions {
  std::string architecture;  // of a multi-architecture image, empty: the host's
  std::string temporary;     // directory for a compressed archive's plain copy
  std::string skip_path;     // left out of a directory: the image being replaced
  std::string variant = {};  // of the architecture
  std::string pin = {};      // of a registry's image: the digest that its name stood for just now
  Remote* remote = nullptr;  // for sources that are not on this machine
};

Outcome<OpenedSource> open_source(const SourceSpec& spec, const OpenOptions& options);

}  // namespace postern::imagebuild

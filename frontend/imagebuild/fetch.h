// Image files that are fetched as they are: SIFs of registries (oras://) and libraries
// (library://), files of web servers.
#pragma once

#include "frontend/imagebuild/open_source.h"
#include "frontend/imagebuild/remote.h"

namespace postern::imagebuild {

struct Fetched {
  UniqueFd fd;
  std::string path;     // in the cache, or of `fd` where there is none
  std::string digest;   // of the manifest (oras://) or of the file; may be empty
  bool cached = false;  // it was there already
};

// Checks what there is to check: digest and size of the file, that it is a SIF where it must be.
Outcome<Fetched> fetch_image(Remote& remote, const SourceSpec& spec, const OpenOptions& options);

}  // namespace postern::imagebuild

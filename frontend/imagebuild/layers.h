// Source: a stack of tar archives, each over the one before (OCI and Docker images), or one tar.
//
// Two passes. The first reads every archive whole: it checks the digests, and merges the headers
// into a tree, so that it is known which layer's file wins. The second reads the archives again
// and passes on the bytes of the winners only. Nothing is unpacked to disk, and no file that an
// upper layer replaces or deletes reaches the image.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "frontend/imagebuild/source.h"

namespace postern::imagebuild {

// One layer: an extent of an open file, which must outlive the source.
struct Layer {
  int fd = -1;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::string name;          // for messages
  std::string digest = {};   // "sha256:…" of the bytes as stored; empty: not checked
  std::string diff_id = {};  // the same of the uncompressed tar; empty: not checked
  // While the bytes arrive: waits until there are more than `position`, and says how many there
  // are. Empty: all are there.
  std::function<Outcome<std::uint64_t>(std::uint64_t position)> available = {};
};

struct LayerOptions {
  bool whiteouts = true;  // OCI whiteout marks; a plain tar has none
};

std::unique_ptr<Source> layer_source(std::vector<Layer> layers, LayerOptions options);

}  // namespace postern::imagebuild

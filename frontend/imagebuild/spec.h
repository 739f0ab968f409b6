// What the user named as the source of a build: which kind of thing, where, which image in it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "policy/problem.h"

namespace postern::imagebuild {

enum class SourceKind : std::uint8_t {
  kDirectory,
  kTar,
  kSquashfs,
  kSif,
  kDockerArchive,
  kOciArchive,
  kOciLayout,
  kDefinition,
  kDocker,   // in a registry
  kOras,     // a SIF in a registry
  kLibrary,  // a SIF in a library
  kHttp,     // an image file on a web server
};

struct SourceSpec {
  SourceKind kind = SourceKind::kDirectory;
  std::string path;       // or of remote sources, what follows "TRANSPORT://"; of kHttp, the URL
  std::string reference;  // tag or name inside an archive of several images; empty: the only one
};

// What `bootstrap:` says of this kind in a definition file.
std::string_view bootstrap_name(SourceKind kind);

// Splits "docker-archive:FILE:NAME:TAG" and the like; true if `text` starts with a transport that
// is known here. `exists` tells whether a path exists: file names may contain colons. Transports of
// registries are a Problem with a cure.
Outcome<bool> split_transport(std::string_view text,
                              const std::function<bool(const std::string&)>& exists,
                              SourceSpec& out);

// split_transport, then by looking at the file.
Outcome<SourceSpec> identify_source(const std::string& text);

// By the first bytes of a file (4096 are enough): squashfs, SIF, a definition file, else kTar.
SourceKind kind_of_head(std::string_view head);

}  // namespace postern::imagebuild

// Names of images: "docker://HOST/REPOSITORY:TAG" and its relatives. Pure; the text comes from a
// command line, a definition file or a workflow.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::net {

// "docker" of "docker://alpine", "oci" of "oci:dir": the word before the first colon if "//"
// follows or if it is a transport that needs none. Empty: a path.
std::string_view transport_of(std::string_view text);

// What follows "TRANSPORT:" and, where it is there, "//".
std::string_view after_transport(std::string_view text);

// An image in a registry.
struct Reference {
  std::string host;        // "docker.io", "quay.io", "localhost:5000"
  std::string repository;  // "library/alpine"
  std::string tag;         // "latest" unless a tag or a digest was given
  std::string digest;      // "sha256:…", or empty

  // HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST.
  [[nodiscard]] std::string name() const;

  // What a registry is asked for: the digest, else the tag.
  [[nodiscard]] const std::string& target() const { return digest.empty() ? tag : digest; }

  // "https://index.docker.io/v1/" for Docker Hub, else the host: the key in credential files.
  [[nodiscard]] std::string credential_key() const;
  // Where the API is: "registry-1.docker.io" for Docker Hub, else the host.
  [[nodiscard]] std::string api_host() const;
};

// `[HOST[:PORT]/]PATH[:TAG][@sha256:HEX]`, without a transport. A tag beside a digest is dropped:
// the digest says exactly which image.
Outcome<Reference> parse_reference(std::string_view text);

// An image in a library.
struct LibraryReference {
  std::string host;               // empty: the library in use
  std::string path;               // "entity/collection/container", or less
  std::string tag;                // "latest" unless one was given; "sha256.HEX" for a hash
  std::vector<std::string> tags;  // all of "a,b"
};

Outcome<LibraryReference> parse_library_reference(std::string_view text);

// The file that `pull` makes of a URI if none is named: "alpine_latest.sif". Error: the reference
// is empty, or would name a file elsewhere.
Outcome<std::string> file_name_of(std::string_view uri);

// True for "sha256:" and 64 lower-case hexadecimal digits.
bool is_digest(std::string_view text);

}  // namespace postern::net

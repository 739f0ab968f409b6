// What an image holds besides its programs: mount points, /.singularity.d with its scripts, and the
// objects of the SIF that describe it. Compatible with images and runtimes of Apptainer.
//
// Formats that postern-init reads without a shell, so that images without /bin/sh start too:
//   env/*.sh written here   comments, `export NAME="literal"`, `export NAME="${NAME:-"literal"}"`;
//                           in a literal, \ " $ ` are escaped by \ and nothing else is
//   runscript of OCI images `[ $# -gt 0 ] || set -- 'word' …` and `exec 'word' … "$@"`, where a '
//                           in a word is written '\''
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/imagebuild/source.h"
#include "policy/sif/format.h"

namespace postern::imagebuild {

// Of an OCI or Docker image's configuration, what an image keeps.
struct ImageConfig {
  std::vector<std::string> environment;  // NAME=VALUE
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::map<std::string, std::string> labels;
  std::string architecture;  // GOARCH name, empty where not known
  std::string created;       // RFC 3339, empty where not known
  std::string raw;           // the configuration as it was, for the SIF; empty: not an OCI image
};

// Of a SCIF app, from the sections %app….
struct AppScripts {
  std::optional<std::string> environment;
  std::optional<std::string> runscript;
  std::optional<std::string> startscript;
  std::optional<std::string> test;
  std::optional<std::string> help;
  std::map<std::string, std::string> labels;
};

// Of a definition file, or nothing. Texts are the sections' bodies.
struct Scripts {
  std::optional<std::string> environment;
  std::optional<std::string> runscript;
  std::optional<std::string> startscript;
  std::optional<std::string> test;
  std::optional<std::string> help;
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> built_labels;  // that %post wrote
  std::map<std::string, AppScripts> apps;
  std::string definition;  // the whole file
  bool replace = false;    // labels and help of the source give way to those of the definition
};

struct Facts {
  std::string bootstrap;             // "docker-archive", "localimage", …
  std::string from;                  // as the user named the source
  std::optional<std::int64_t> time;  // of the build, seconds since 1970, where one is known
  std::int64_t newest = 0;           // modification time in the source
  sif::Architecture architecture = sif::Architecture::kUnknown;
};

// The texts of the SIF's objects.
struct Description {
  std::string definition;
  std::string inspect;     // inspect-metadata.json
  std::string oci_config;  // oci-config.json, may be empty
};

// Adds to `tree` what programs of a build need: mount points, the environment of an OCI
// image, folders of apps.
Outcome<> prepare_layout(Tree& tree,
                         const ImageConfig& config,
                         const Scripts& scripts,
                         const Facts& facts);

// Adds what is missing to `tree` and describes the result. What a source has (environment, earlier
// definition files) stays, as Apptainer keeps it.
Outcome<Description> complete_layout(Tree& tree,
                                     Source& source,
                                     const ImageConfig& config,
                                     const Scripts& scripts,
                                     const Facts& facts);

// By an ELF program in the tree; kUnknown where there is none.
sif::Architecture architecture_of(const Tree& tree, Source& source);

// What is found in bytes 0…19 of a program: kUnknown for anything that is not ELF.
sif::Architecture elf_architecture(std::string_view head);

// `export NAME="${NAME:-"value"}"`, or `export PATH="value"`, for each NAME=VALUE whose name a
// shell accepts.
std::string environment_script(const std::vector<std::string>& environment);

// The runscript of an image with this ENTRYPOINT and CMD.
std::string oci_runscript(const std::vector<std::string>& entrypoint,
                          const std::vector<std::string>& command);

// A text of the tree's file at `path`; nothing where it is not a file or is larger than
// kMaxCaptured.
Outcome<std::optional<std::string>> file_text(const Tree& tree,
                                              Source& source,
                                              std::string_view path);

}  // namespace postern::imagebuild

// What `inspect` shows: the data that SIF files carry in "inspect-metadata.json", and what is
// found in an image that has no such object.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::inspect {

// Bounds: metadata is shown, so more of it than anybody can read is an error.
inline constexpr std::uint64_t kMaxMetadataBytes = 16 * 1024 * 1024;
inline constexpr std::uint64_t kMaxFileBytes = 4 * 1024 * 1024;

struct App {
  std::map<std::string, std::string> environment;  // path of the script -> text
  std::map<std::string, std::string> labels;
  std::string runscript;
  std::string test;
  std::string helpfile;
};

struct Metadata {
  std::map<std::string, App> apps;
  std::map<std::string, std::string> environment;
  std::map<std::string, std::string> labels;
  std::string runscript;
  std::string test;
  std::string helpfile;
  std::string deffile;
  std::string startscript;
  std::vector<std::string> left_out;  // what was malformed, in words
};

// Which parts are wanted.
struct Selection {
  bool labels = false;
  bool deffile = false;
  bool environment = false;
  bool helpfile = false;
  bool runscript = false;
  bool startscript = false;
  bool test = false;
  bool list_apps = false;
  bool all = false;
  std::string app = {};  // parts of this app instead of the image's; empty = the image's
};

// What remains of `metadata` for `selection`. Error: the image has no such app.
Outcome<Metadata> select(const Metadata& metadata, const Selection& selection);

// {"data":{"attributes":{…}},"type":"container"}: members that are not objects or strings are left
// out with a word, unknown ones without. Error: nothing of that form.
Outcome<Metadata> parse_metadata(std::string_view json);

// A flat object of strings (labels.json). Numbers and booleans become text.
Outcome<std::map<std::string, std::string>> parse_labels(std::string_view json);

// Indented by tabs, empty members left out, ends with a line feed.
std::string to_json(const Metadata& metadata);

// For people: each part as it is, labels as "name: value", environment under "=== path ===".
std::string to_text(const Metadata& metadata, const Selection& selection);

}  // namespace postern::inspect

#include "frontend/plan/identity.h"

#include <algorithm>

#include "policy/accounts/files.h"
#include "policy/text/split.h"

namespace postern::plan {
namespace {

using accounts::field;
using accounts::fields_of;

bool is_number(std::string_view text, unsigned number) {
  return accounts::number_of(text) == number;
}

std::string name_of(const Identity& caller) {
  return caller.name.empty() ? "user" + std::to_string(caller.uid) : field(caller.name);
}

}  // namespace

std::string merge_passwd(std::string_view image_file,
                         const Identity& caller,
                         std::string_view home) {
  std::string merged;
  bool found = false;
  text::for_each_line(image_file, [&](std::string_view line) {
    const auto fields = fields_of(line);
    if (found || !is_number(fields[2], caller.uid)) {
      merged += line;
    } else {
      found = true;
      const bool root = caller.uid == 0;
      merged += root ? std::string(fields[0]) : name_of(caller);
      merged += ":x:" + std::to_string(caller.uid) + ':';
      merged += fields[3];
      merged +=
          ':' + (root ? std::string(fields[4]) : field(caller.gecos)) + ':' + field(home) + ':';
      merged += fields[6];
    }
    merged += '\n';
  });
  if (!found) {
    // The caller's shell may not exist in the image; sh does, where there is a shell at all.
    merged += name_of(caller) + ":x:" + std::to_string(caller.uid) + ':' +
              std::to_string(caller.gid) + ':' + field(caller.gecos) + ':' + field(home) + ':' +
              (caller.shell.empty() ? "/bin/sh" : field(caller.shell)) + '\n';
  }
  return merged;
}

std::string merge_group(std::string_view image_file, const Identity& caller) {
  std::string merged;
  std::vector<gid_t> present;
  text::for_each_line(image_file, [&](std::string_view line) {
    merged += line;
    merged += '\n';
    const auto gid = fields_of(line)[2];
    for (const auto& [number, name] : caller.groups) {
      if (is_number(gid, number)) {
        present.push_back(number);
      }
    }
  });
  for (const auto& [gid, name] : caller.groups) {
    if (std::find(present.begin(), present.end(), gid) == present.end()) {
      merged += (name.empty() ? "group" + std::to_string(gid) : field(name)) +
                ":x:" + std::to_string(gid) + ':' + name_of(caller) + '\n';
    }
  }
  return merged;
}

}  // namespace postern::plan

#include "frontend/plan/identity.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "policy/text/split.h"

namespace postern::plan {
namespace {

constexpr std::size_t kPasswdFields = 7;  // passwd(5): name:password:uid:gid:gecos:home:shell

// A field of passwd(5) or group(5) can hold neither a colon nor a line end.
std::string field(std::string_view text) {
  std::string clean(text);
  std::replace_if(clean.begin(), clean.end(), [](char c) { return c == ':' || c == '\n'; }, ' ');
  return clean;
}

// The fields of a line; the last one holds the rest.
std::array<std::string_view, kPasswdFields> fields_of(std::string_view line) {
  std::array<std::string_view, kPasswdFields> fields{};
  for (std::size_t i = 0; i < kPasswdFields; ++i) {
    const auto colon = i + 1 < kPasswdFields ? line.find(':') : line.npos;
    fields[i] = line.substr(0, colon);
    line = colon == line.npos ? std::string_view{} : line.substr(colon + 1);
  }
  return fields;
}

bool is_number(std::string_view text, unsigned number) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value == number;
}

std::string name_of(const Identity& caller) {
  return caller.name.empty() ? "user" + std::to_string(caller.uid) : field(caller.name);
}

// "+" and "-" lines are about a directory service (nsswitch.conf(5), compat).
bool is_account(std::string_view name) {
  return !name.empty() && name[0] != '+' && name[0] != '-';
}

}  // namespace

bool files_come_first(std::string_view settings, std::string_view database) {
  bool first = true;  // the C library's own default begins with them
  text::for_each_line(settings, [&](std::string_view line) {
    const auto colon = line.find(':');
    const auto name = line.find_first_not_of(" \t");
    if (colon != line.npos && line.substr(name, colon - name) == database) {
      line.remove_prefix(colon + 1);
      line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
      first = line.substr(0, line.find_first_of(" \t[#")) == "files";
    }
  });
  return first;
}

bool read_user(std::string_view host_file, Identity& caller) {
  bool found = false;
  text::for_each_line(host_file, [&](std::string_view line) {
    const auto fields = fields_of(line);
    const bool is_whole =
        static_cast<std::size_t>(std::count(line.begin(), line.end(), ':')) + 1 >= kPasswdFields;
    if (!found && is_whole && is_account(fields[0]) && is_number(fields[2], caller.uid)) {
      found = true;
      caller.name = fields[0];
      caller.gecos = fields[4];
      caller.home = fields[5];
      caller.shell = fields[6];
    }
  });
  return found;
}

void name_groups(std::string_view host_file, Identity& caller) {
  text::for_each_line(host_file, [&](std::string_view line) {
    const auto fields = fields_of(line);
    for (auto& [gid, name] : caller.groups) {
      if (name.empty() && is_account(fields[0]) && is_number(fields[2], gid)) {
        name = fields[0];
      }
    }
  });
}

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

// The formats of passwd(5), group(5) and nsswitch.conf(5).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "policy/accounts/accounts.h"

namespace postern::accounts {

inline constexpr std::size_t kPasswdFields = 7;  // name:password:uid:gid:gecos:home:shell

// The fields of a line; the last one holds the rest.
std::array<std::string_view, kPasswdFields> fields_of(std::string_view line);

std::optional<std::uint32_t> number_of(std::string_view text);

// A field can hold neither a colon nor a line end.
std::string field(std::string_view text);

// The services that `settings` (nsswitch.conf(5)) names for `database` ("passwd", "group").
struct Services {
  bool files_first = true;  // the C library's own default begins with them
  bool others = true;       // and may go on with others
};

Services services_of(std::string_view settings, std::string_view database);

// The first line of a passwd or group file that answers; "": none does.
std::string line_in(std::string_view file, const Question& question);

}  // namespace postern::accounts

// Who the caller is, inside: the lines of the generated /etc/passwd and /etc/group.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace postern::plan {

struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;  // empty where the uid is in no database
  std::string gecos;
  std::string home;  // as the caller's database says; the container's home may be another
  std::string shell;
  std::vector<std::pair<gid_t, std::string>>
      groups;  // primary first, then supplementary, each once
};

// The image's passwd file with the caller in it: the line of the caller's uid gets the caller's
// name, gecos and `home` and keeps the image's gid and shell (for uid 0: keeps name and gecos too);
// where there is no such line, one is appended. All other lines stay byte for byte.
std::string merge_passwd(std::string_view image_file,
                         const Identity& caller,
                         std::string_view home);

// The image's group file with one line appended for each group of the caller's, so that names
// resolve inside; gids that the image names already are left alone.
std::string merge_group(std::string_view image_file, const Identity& caller);

}  // namespace postern::plan

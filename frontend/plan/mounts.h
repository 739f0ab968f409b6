// The mounts of a start: /dev, what the site configures, home, /tmp, the caller's directory, and
// what the user binds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontend/plan/builder.h"

namespace postern::plan {

Outcome<> add_dev(Builder& builder);
Outcome<> add_configured_binds(Builder& builder);
Outcome<> add_kernel_file_systems(Builder& builder);
Outcome<> add_tmp(Builder& builder);

// The result is the path of the home directory inside, mounted or not.
Outcome<std::string> add_home(Builder& builder);

// ORDER: after all others that bind host directories by default: what one of them shows already is
// not bound again.
Outcome<> add_cwd(Builder& builder);

Outcome<> add_scratch(Builder& builder);

// The result is the destinations of the binds.
Outcome<std::vector<std::string>> add_user_binds(Builder& builder);

// --fusemount.
Outcome<> add_fuse_mounts(Builder& builder);

// The caller's directory is not bound by default if this is true of it: system directories, whose
// content is the image's business.
bool is_system_directory(std::string_view path);

}  // namespace postern::plan

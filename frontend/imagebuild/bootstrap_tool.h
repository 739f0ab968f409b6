// Root file systems that a program of this host makes: debootstrap, dnf or yum, zypper, pacstrap,
// busybox.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "frontend/imagebuild/options.h"
#include "policy/problem.h"

namespace postern::imagebuild {

// "debootstrap", "yum", "dnf", "zypper", "arch", "busybox": what `Bootstrap:` may say.
bool is_bootstrap_tool(std::string_view name);

// Fills the empty directory at `root`. `header`: of the definition file, keys in lower case.
// Errors: a header is missing, the program is missing (which package has it), or it failed.
Outcome<> run_bootstrap_tool(const std::string& name,
                             const std::map<std::string, std::string>& header,
                             const std::string& root,
                             const BuildOptions& options);

}  // namespace postern::imagebuild

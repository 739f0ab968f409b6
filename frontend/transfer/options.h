// The options of the commands that fetch and send: one table for all of them.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "frontend/imagebuild/options.h"
#include "frontend/option/usage.h"

namespace postern::transfer {

inline constexpr option::CommandSet kPull = 1;
inline constexpr option::CommandSet kFetch = 2;  // what bin/postern asks for before a start
inline constexpr option::CommandSet kPush = 4;
inline constexpr option::CommandSet kTag = 8;
inline constexpr option::CommandSet kSearch = 16;
inline constexpr option::CommandSet kDelete = 32;

std::span<const option::Option> options();

// Connections and cache as the command line of `command` says.
Outcome<std::shared_ptr<imagebuild::Remote>> remote_of(const option::Arguments& arguments,
                                                       option::CommandSet command);

// How an image is converted: for this host, or for what --arch says.
Outcome<imagebuild::BuildOptions> build_options_of(const option::Arguments& arguments,
                                                   std::shared_ptr<imagebuild::Remote> remote);

}  // namespace postern::transfer

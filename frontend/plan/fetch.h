// Images that are named by a URI: postern-transfer fetches them before a start.
#pragma once

#include <string>
#include <string_view>

#include "frontend/plan/action.h"
#include "policy/problem.h"

namespace postern::plan {

// Whether the image that a command line names must be fetched or converted first. A file of this
// very name is taken as it is.
bool needs_fetching(const std::string& image);

struct FetchedImage {
  std::string path;
  bool temporary = false;  // to be removed when it has been opened
};

// Waits for postern-transfer, which says itself what goes wrong.
Outcome<FetchedImage> fetch_image(const Action& action);

}  // namespace postern::plan

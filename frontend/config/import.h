// Reading the configuration of Apptainer (or Singularity) into ours.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "policy/config/capabilities.h"
#include "policy/config/site.h"
#include "policy/problem.h"

namespace postern::config {

struct ImportedSite {
  SiteConfig site;
  std::vector<std::string> notes;  // what was left out or means something else here, a line each
};

// The text of an apptainer.conf. Error: "FILE:LINE: what", for a value that is none.
[[nodiscard]] Outcome<ImportedSite> import_site(std::string_view text, const std::string& file);

// The text of a capability.json; an empty one grants nothing.
[[nodiscard]] Outcome<CapabilityConfig> import_capabilities(std::string_view text,
                                                            const std::string& file);

}  // namespace postern::config

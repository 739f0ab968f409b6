// The image that a command line names, opened and looked at.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"

namespace postern::plan {

struct OpenImage {
  std::string path;  // absolute
  bool directory = false;
  bool sif = false;
  std::optional<ImageServer> root;  // absent for directories
  bool encrypted = false;           // `root` is a LUKS2 or gocryptfs container without its key yet
  std::vector<ImageServer> overlays;  // read-only overlay partitions of a SIF, bottom first
};

// Opens what `given` names (relative to `directory`). Errors say what is wrong and the cure: a
// missing, unreadable or unknown file, a directory that cannot be entered, an image for another
// architecture, a URI (images are not fetched at start).
Outcome<OpenImage> open_image(const std::string& given, const std::string& directory);

// A file system to bind or to lay over the root: a squashfs or ext3 file, or a SIF's data partition
// (the one numbered `object`, or the only one). Read-only.
Outcome<ImageServer> open_data_image(const std::string& path, std::optional<std::uint32_t> object);

// The same file system, an ext3 one, to write to: the file is opened again for that. False: the
// caller may not write it. Problem: another container uses it.
Outcome<bool> open_for_writing(ImageServer& server);

// Locks the ext3 images of the plan, as long as they are open: several may read one, or one write.
Outcome<> lock_images(LaunchPlan& plan);

}  // namespace postern::plan

#!/usr/bin/env python3
"""Workflow programs run their container examples with our program under Apptainer's names: Snakemake and cwltool from
PyPI (./dev test puts them into a virtual environment), and the command lines that Nextflow and Galaxy write. Prints TAP."""
import json
import os
import shutil
import subprocess

import harness

PLACE = os.path.join(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "postern-workflows")
if not os.path.exists(PLACE + "/bin/cwltool"):
    harness.skip(f"needs {PLACE}: a virtual environment with snakemake and cwltool (./dev test makes it)")
bench = harness.Bench()
BASH = subprocess.run(["ldd", "/bin/bash"], check=True, capture_output=True, text=True).stdout


def with_bash():
    root = bench.rootfs("workflow", files={".singularity.d/runscript": '#!/bin/sh\nexec "$@"\n', "from-image/tool": "tool\n"})
    for path in ["/bin/bash", *(word for word in BASH.split() if word.startswith("/"))]:
        os.makedirs(root + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, root + path)
    return root


IMAGE = bench.sif(bench.squashfs(with_bash()), "workflow.sif")
NAMES = bench.make_directory("names")
for name in ("apptainer", "singularity"):
    os.symlink(bench.postern, os.path.join(NAMES, name))
for program in ("inspect", "transfer", "build"):
    source = os.path.join(os.environ["POSTERN_BUILD"], f"frontend/{'imagebuild' if program == 'build' else program}/postern-{program}")
    shutil.copy(source, os.path.join(os.path.dirname(bench.postern), "../libexec/postern/"))
PATH = f"{NAMES}:{PLACE}/bin:/usr/bin:/bin"


def write(directory, name, text):
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


def snakemake(b):
    """Snakemake: rules with containers, by the present and the former option, and directories with spaces"""
    for number, option in enumerate((["--software-deployment-method", "apptainer"], ["--use-apptainer"], ["--use-singularity"])):
        job = b.make_directory(f"snake make {number}")
        write(job, "Snakefile", f"""
rule all:
    input: "out/second.txt"
rule first:
    output: "out/first.txt"
    container: "{IMAGE}"
    params: text="a 'quoted' text"
    shell: "cat /from-image/tool > {{output}}; echo {{params.text:q}} >> {{output}}"
rule second:
    input: "out/first.txt"
    output: "out/second.txt"
    container: "{IMAGE}"
    threads: 2
    shell: "cat {{input}} > {{output}}; id -u >> {{output}}; echo {{threads}} $(( ${{{{#BASH_VERSION}}}} > 0 )) >> {{output}}"
""")
        done = b.run(command=["snakemake", "--cores", "2", *option, "--apptainer-args=--contain"], cwd=job, env={"PATH": PATH}, timeout=200)
        assert done.code == 0, repr(done) + done.err[-3000:]
        with open(job + "/out/second.txt") as file:
            assert file.read() == f"tool\na 'quoted' text\n{b.user.uid}\n2 1\n"


def cwltool(b):
    """cwltool --singularity: a tool whose fifty input files are bound one by one"""
    job = b.make_directory("cwl")
    write(job, "tool.cwl", f"""
cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: {{dockerImageId: {IMAGE}}}
  InitialWorkDirRequirement:
    listing: [{{entryname: staged.txt, entry: staged}}]
baseCommand: [sh, -c]
arguments: ['cat staged.txt /from-image/tool; for f in "$@"; do cat "$f"; done; touch made.txt', sh]
inputs:
  many: {{type: "File[]", inputBinding: {{position: 1}}}}
stdout: out.txt
outputs:
  result: {{type: stdout}}
  made: {{type: File, outputBinding: {{glob: made.txt}}}}
""")
    files = [write(job, f"in/file-{i}", f"{i}\n") for i in range(50)]
    write(job, "job.json", json.dumps({"many": [{"class": "File", "path": path} for path in files]}))
    subprocess.run(["chown", "-R", str(b.user.uid), job], check=True)
    done = b.run(command=["cwltool", "--singularity", "tool.cwl", "job.json"], cwd=job, env={"PATH": PATH}, timeout=200)
    assert done.code == 0, repr(done) + done.err[-3000:]
    with open(job + "/out.txt") as file:
        assert file.read() == "stagedtool\n" + "".join(f"{i}\n" for i in range(50))
    assert os.path.exists(job + "/made.txt")


def nextflow(b):
    """The command line that Nextflow puts into .command.run"""
    job = b.make_directory("nextflow/work/3f/a1b2")
    write(job, ".command.sh", "#!/bin/bash -ue\ncat /from-image/tool > result.txt\necho $NXF_TASK_WORKDIR $TMPDIR > where.txt\n")
    text = """set +u; env - PATH="$PATH" ${TMP:+APPTAINERENV_TMP="$TMP"} ${TMPDIR:+APPTAINERENV_TMPDIR="$TMPDIR"} \
${NXF_TASK_WORKDIR:+APPTAINERENV_NXF_TASK_WORKDIR="$NXF_TASK_WORKDIR"} apptainer exec --no-home --pid -B TOP IMAGE /bin/bash -c "cd $NXF_TASK_WORKDIR; /bin/bash -ue .command.sh" """
    command = text.replace("TOP", b.top + "/nextflow").replace("IMAGE", IMAGE)
    done = b.run(command=["bash", "-c", command], cwd=job, env={"PATH": PATH, "NXF_TASK_WORKDIR": job, "TMPDIR": "/tmp"}).ok()
    assert done.err == "", "nothing is said beside: " + done.err
    with open(job + "/result.txt") as result, open(job + "/where.txt") as where:
        assert result.read() == "tool\n" and where.read() == f"{job} /tmp\n"


def galaxy(b):
    """The command line that Galaxy writes for a job"""
    job = b.make_directory("galaxy/000/1")
    write(job, "tool_script.sh", "#!/bin/bash\ncat /from-image/tool > outputs.txt; echo $GALAXY_SLOTS >> outputs.txt; echo $HOME >> outputs.txt\n")
    os.chmod(job + "/tool_script.sh", 0o755)
    command = (f"SINGULARITYENV_GALAXY_SLOTS=$GALAXY_SLOTS SINGULARITYENV_HOME=$HOME singularity -s exec --cleanenv -B {b.top}/galaxy:{b.top}/galaxy:ro -B {job}:{job} "
               f"--home $HOME:$HOME --ipc --pid {IMAGE} /bin/bash {job}/tool_script.sh")
    b.run(command=["bash", "-c", command], cwd=job, env={"PATH": PATH, "GALAXY_SLOTS": "3"}).ok()
    with open(job + "/outputs.txt") as file:
        assert file.read() == f"tool\n3\n{b.user.home}\n"


bench.main([snakemake, cwltool, nextflow, galaxy])

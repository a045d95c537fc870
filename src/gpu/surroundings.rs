//! What the machine around the driver looks like, as far as it decides what a user must do: the operating system, for the
//! command that installs a driver, and whether GPUs are reachable at all.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which family of commands installs things here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    Debian,
    Fedora,
    Arch,
    Alpine,
    OtherLinux,
    MacOs,
    Other,
}

/// The state of `/dev/dri`, through which Linux programs reach a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenderNodes {
    /// Not Linux.
    NotNeeded,
    /// `/dev/dri` does not exist or holds no render node.
    Missing,
    /// None of these render nodes may be opened by this user.
    Denied(Vec<String>),
    /// These may be opened.
    Usable(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    pub system: System,
    pub render_nodes: RenderNodes,
    /// Runs in a container, as far as can be seen.
    pub container: bool,
}

impl Surroundings {
    pub fn detect() -> Surroundings {
        let linux = cfg!(target_os = "linux");
        Surroundings {
            system: system(),
            render_nodes: if linux { render_nodes(Path::new("/dev/dri")) } else { RenderNodes::NotNeeded },
            container: linux
                && (Path::new("/run/.containerenv").exists()
                    || Path::new("/.dockerenv").exists()
                    || std::env::var_os("container").is_some()),
        }
    }

    /// The command that installs a Vulkan loader and the usual drivers.
    pub fn install_command(&self) -> &'static str {
        match self.system {
            System::Debian => "sudo apt install libvulkan1 mesa-vulkan-drivers",
            System::Fedora => "sudo dnf install vulkan-loader mesa-vulkan-drivers",
            System::Arch => "sudo pacman -S vulkan-icd-loader vulkan-swrast, and your GPU's driver",
            System::Alpine => "sudo apk add vulkan-loader mesa-vulkan-swrast, and your GPU's mesa-vulkan-* package",
            System::OtherLinux => "your package manager, for the Vulkan loader and Mesa's Vulkan drivers",
            System::MacOs => "brew install vulkan-loader molten-vk",
            System::Other => "the driver package of your GPU's vendor",
        }
    }

    /// How to get a driver: what to install, and what to change about `/dev/dri` if that is in the way.
    pub fn driver_advice(&self) -> String {
        let mut advice = format!("Install one with: {}.", self.install_command());
        if let Some(reach) = self.reach_advice() {
            advice.push(' ');
            advice.push_str(&reach);
        }
        advice
    }

    /// What keeps this process from reaching a GPU, and the remedy; `None` if nothing is known to.
    pub fn reach_advice(&self) -> Option<String> {
        match &self.render_nodes {
            RenderNodes::NotNeeded | RenderNodes::Usable(_) => None,
            RenderNodes::Missing if self.container => Some(
                "This container has no GPU: /dev/dri holds no render node. Start it with --device /dev/dri; on macOS \
                 the Podman machine must be of the libkrun kind (podman machine init with \
                 CONTAINERS_MACHINE_PROVIDER=libkrun)."
                    .to_owned(),
            ),
            RenderNodes::Missing => Some(
                "This machine shows no GPU: /dev/dri holds no render node, so the kernel has no driver for one. In a \
                 container, start it with --device /dev/dri."
                    .to_owned(),
            ),
            RenderNodes::Denied(nodes) => Some(format!(
                "{} may not be opened by this user: {}.",
                nodes.join(" and "),
                if self.container {
                    "start the container with --device /dev/dri and --group-add keep-groups (and \
                     --security-opt=label=disable where SELinux is on)"
                } else {
                    "add yourself to its group with: sudo usermod -aG render $USER, and log in again"
                }
            )),
        }
    }
}

fn system() -> System {
    if cfg!(target_os = "macos") {
        return System::MacOs;
    }
    if !cfg!(target_os = "linux") {
        return System::Other;
    }
    system_of(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
}

/// The system that an os-release file describes, by its ID and ID_LIKE lines.
fn system_of(os_release: &str) -> System {
    let words: Vec<&str> = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let families = [
        (System::Debian, ["debian", "ubuntu"]),
        (System::Fedora, ["fedora", "rhel"]),
        (System::Arch, ["arch", "archlinux"]),
        (System::Alpine, ["alpine", "postmarketos"]),
    ];
    let family = families.iter().find(|(_, names)| words.iter().any(|word| names.contains(word)));
    family.map_or(System::OtherLinux, |(system, _)| *system)
}

fn render_nodes(folder: &Path) -> RenderNodes {
    let mut nodes: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
        .map(|entry| entry.path().display().to_string())
        .collect();
    nodes.sort();
    if nodes.is_empty() {
        return RenderNodes::Missing;
    }
    let opens = |node: &String| std::fs::OpenOptions::new().read(true).write(true).open(node).is_ok();
    let (usable, denied): (Vec<_>, Vec<_>) = nodes.into_iter().partition(opens);
    if usable.is_empty() { RenderNodes::Denied(denied) } else { RenderNodes::Usable(usable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_told_apart_by_id_and_likeness() {
        assert_eq!(system_of("PRETTY_NAME=\"x\"\nID=debian\n"), System::Debian);
        assert_eq!(system_of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), System::Debian);
        assert_eq!(system_of("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), System::Fedora);
        assert_eq!(system_of("ID=nixos\n"), System::OtherLinux);
        assert_eq!(system_of(""), System::OtherLinux);
    }

    #[test]
    fn a_folder_without_render_nodes_has_none() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("card0"), b"").expect("a file");
        assert_eq!(render_nodes(folder.path()), RenderNodes::Missing);
        assert_eq!(render_nodes(&folder.path().join("absent")), RenderNodes::Missing);
        let node = folder.path().join("renderD128");
        std::fs::write(&node, b"").expect("a file");
        assert_eq!(render_nodes(folder.path()), RenderNodes::Usable(vec![node.display().to_string()]));
    }

    #[test]
    fn advice_names_the_container_flag_only_where_it_helps() {
        let mut surroundings =
            Surroundings { system: System::Debian, render_nodes: RenderNodes::Missing, container: true };
        assert!(surroundings.driver_advice().contains("--device /dev/dri"));
        assert!(surroundings.driver_advice().contains("apt install"));
        surroundings.render_nodes = RenderNodes::Usable(vec!["/dev/dri/renderD128".to_owned()]);
        assert!(!surroundings.driver_advice().contains("/dev/dri"));
    }
}

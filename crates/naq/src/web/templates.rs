//! The templates of pages.

use tera::{Context, Tera};

use super::assets;
use super::base_path::BasePath;
use super::dashboard_names::{DashboardTitle, OtherDashboard};

/// Every template. A page extends `layout.html`.
const TEMPLATES: &[(&str, &str)] = &[
    ("layout.html", include_str!("templates/layout.html")),
    ("overview.html", include_str!("templates/overview.html")),
    (
        "overview_body.html",
        include_str!("templates/overview_body.html"),
    ),
    ("navigation.html", include_str!("templates/navigation.html")),
    ("dialogs.html", include_str!("templates/dialogs.html")),
    (
        "saved_views.html",
        include_str!("templates/saved_views.html"),
    ),
    ("job_table.html", include_str!("templates/job_table.html")),
    ("jobs.html", include_str!("templates/jobs.html")),
    ("job.html", include_str!("templates/job.html")),
    ("job_body.html", include_str!("templates/job_body.html")),
    ("snapshot.html", include_str!("templates/snapshot.html")),
    (
        "dependencies.html",
        include_str!("templates/dependencies.html"),
    ),
    ("attempts.html", include_str!("templates/attempts.html")),
    ("flow.html", include_str!("templates/flow.html")),
    ("flow_body.html", include_str!("templates/flow_body.html")),
    ("enqueue.html", include_str!("templates/enqueue.html")),
    ("failed.html", include_str!("templates/failed.html")),
    (
        "failed_jobs.html",
        include_str!("templates/failed_jobs.html"),
    ),
    ("schedules.html", include_str!("templates/schedules.html")),
    ("workers.html", include_str!("templates/workers.html")),
    ("audit.html", include_str!("templates/audit.html")),
    ("schedule.html", include_str!("templates/schedule.html")),
    (
        "schedule_form.html",
        include_str!("templates/schedule_form.html"),
    ),
    ("actions.html", include_str!("templates/actions.html")),
    ("action.html", include_str!("templates/action.html")),
    (
        "action_body.html",
        include_str!("templates/action_body.html"),
    ),
    ("action_new.html", include_str!("templates/action_new.html")),
    ("login.html", include_str!("templates/login.html")),
    ("error.html", include_str!("templates/error.html")),
];

/// The parsed templates. An error in one of them is a bug, which a test finds.
pub(super) struct Templates(Result<Tera, tera::Error>);

impl Templates {
    /// `title` is the name of this dashboard, and `others` are those to which its pages lead.
    pub(super) fn new(
        base_path: &BasePath,
        title: Option<&DashboardTitle>,
        others: &[OtherDashboard],
    ) -> Templates {
        let mut tera = Tera::new();
        let added = tera.add_raw_templates(TEMPLATES.iter().copied());
        let globals = tera.global_context();
        globals.insert("base", base_path.as_str());
        globals.insert("has_dashboard", &title.is_some());
        if let Some(title) = title {
            globals.insert("dashboard", title);
        }
        globals.insert("others", others);
        globals.insert("version", env!("CARGO_PKG_VERSION"));
        for (variable, asset) in [
            ("script", "app.js"),
            ("style", "style.css"),
            ("icon", "icon.svg"),
        ] {
            globals.insert(variable, assets::name_of(asset).unwrap_or_default());
        }
        Templates(added.map(|()| tera))
    }

    /// A page.
    ///
    /// # Errors
    /// Returns an error if the template cannot be parsed, or uses a variable that the context lacks.
    pub(super) fn render(&self, template: &str, context: &Context) -> Result<String, String> {
        let tera = self.0.as_ref().map_err(ToString::to_string)?;
        tera.render(template, context)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_can_be_parsed() {
        Templates::new(&BasePath::default(), None, &[]).0.unwrap();
    }

    #[test]
    fn text_from_outside_is_shown_as_text() {
        let templates = Templates::new(&BasePath::default(), None, &[]);
        let mut context = Context::new();
        context.insert("title", "<script>alert(1)</script>");
        let hostile = "`<b>`: \"><img src=x onerror=alert(1)>";
        context.insert("detail", &crate::web::sentence::pieces(hostile));
        context.insert("text", "");
        let page = templates.render("error.html", &context).unwrap();
        assert!(
            !page.contains("<script>alert") && !page.contains("<img src=x"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    }
}

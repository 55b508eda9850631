//! What a receiver of webhooks does wrong.

use super::{ASHA, BIRK, Desk, PATIENCE, eventually};
use crate::sink::{Manner, Sink};
use crate::stage::Stage;
use anyhow::{Result, ensure};
use flowbridge_domain::id::PaymentId;

impl Desk<'_> {
    /// It is told nothing until it shows another one, and then everything in order; the other endpoint hears it all at once.
    pub(super) async fn receiver_untrusted(&self) -> Result<()> {
        let names = ["trusted", "untrusted"];
        let sink = Sink::start(&self.world.authority, &names).await?;
        for name in names {
            self.open_endpoint(&sink, name).await?;
        }
        sink.behave_at("untrusted", Manner::Untrusted);
        let id = self.pay(ASHA, BIRK, 40).await?;
        // Mended before the second attempt: the third would be minutes away.
        eventually(PATIENCE, || async {
            let (told, distrust) = (sink.deliveries(Some("trusted")), sink.distrust("untrusted")?);
            let is_seen = told > 0 && distrust.refused > 0;
            Ok(if is_seen { Ok(()) } else { Err(format!("{told} deliveries came, and {distrust:?}")) })
        })
        .await?;
        let told = sink.deliveries(Some("untrusted"));
        ensure!(told == 0, "{told} deliveries were made to whoever nobody trusts");
        sink.behave_at("untrusted", Manner::Polite);
        self.completes(std::slice::from_ref(&id)).await?;
        let payment = PaymentId::parse(&id)?;
        eventually(PATIENCE, || async {
            let wrong = sink.wrong();
            ensure!(wrong.is_empty(), "{wrong:?}");
            let stories = names.map(|name| sink.story(name, payment));
            let is_told = stories.iter().all(|story| story.contains(&Stage::COMPLETED));
            Ok(if is_told { Ok(()) } else { Err(format!("the two endpoints have heard {stories:?}")) })
        })
        .await
    }
}
